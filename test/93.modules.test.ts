/** The package by require() and by import, as its name resolves. */
import { createRequire } from 'node:module';
import { expect } from 'chai';
import * as imported from 'fused-adamw';
import * as internal from '../lib/index.js';

const required: typeof imported = createRequire(import.meta.url)('fused-adamw');

/** What interpreters add to the namespace of a CommonJS module. */
const ADDED = ['__esModule', 'default', 'module.exports'];

describe('require() and import', () => {
  const names = Object.keys(required).sort();

  it('should export the same names', () => {
    expect(names).to.include.members(['AdamW', 'Tensor', 'backendInfo', 'register']);
    expect(
      Object.keys(imported)
        .filter((name) => !ADDED.includes(name))
        .sort(),
    ).to.deep.equal(names);
  });

  it('should give the same classes, functions and tables', () => {
    for (const namespace of [imported, internal]) {
      for (const name of names)
        expect(namespace)
          .to.have.property(name)
          .equal(required[name as keyof typeof required]);
    }
    expect(imported.Tensor.zeros(2)).to.be.an.instanceof(required.Tensor);
  });
});
