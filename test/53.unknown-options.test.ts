/** Options that nobody knows: told, with the one that was probably meant. */
import { expect } from 'chai';
import { nearest, readOptions } from '../lib/options.js';
import { expectError, itRefuses } from './support/errors.js';

const KNOWN = [
  'learningRate',
  'beta1',
  'beta2',
  'epsilon',
  'wd',
  'clipGradient',
  'lrScheduler',
  'dtype',
  'warmupSteps',
];
const SYNONYMS = { lr: 'learningRate', betas: 'beta1 and beta2', eps: 'epsilon', weightDecay: 'wd' };

function read(options: object, known: readonly string[] = KNOWN): object {
  return readOptions(options as Record<string, unknown>, 'options', known, SYNONYMS);
}

function check(options: object): () => object {
  return () => read(options);
}

describe('readOptions', () => {
  it('should copy options that are all known, inherited ones too', () => {
    const options = Object.assign(Object.create({ wd: 0 }), { dtype: 'float16' });
    expect(read(options, ['wd', 'dtype', 'beta1'])).to.deep.equal({ wd: 0, dtype: 'float16', beta1: undefined });
    read(Object.create(null));
  });

  it('should overlook what is not enumerable, and symbols', () => {
    class Options {
      wd = 0;
      method(): void {}
    }
    read(new Options());
    read({ [Symbol('lr')]: 1 });
    read(Object.defineProperty({}, 'lr', { value: 1 }));
  });

  for (const [key, meant] of [
    ['lr', 'learningRate'],
    ['LR', 'learningRate'],
    ['betas', 'beta1 and beta2'],
    ['eps', 'epsilon'],
    ['weightDecay', 'wd'],
    ['weight_decay', 'wd'],
    ['learning_rate', 'learningRate'],
    ['learningrate', 'learningRate'],
    ['learnnigRate', 'learningRate'],
    ['type', 'dtype'],
    ['dytpe', 'dtype'],
    ['warmup', 'warmupSteps'],
    ['beta_1', 'beta1'],
    ['clip', 'clipGradient'],
    ['clipGradientValue', 'clipGradient'],
  ]) {
    it(`should say that ${key} is meant to be ${meant}`, () => {
      const message = `Expected a known option for options but received "${key}"; did you mean ${meant}?`;
      expectError(check({ [key]: 1 }), TypeError, message);
      expectError(check({ wd: 0, [key]: undefined }), TypeError, message);
      expectError(check(Object.create({ [key]: 1 })), TypeError, message);
      expectError(check(new Proxy({ [key]: 1 }, {})), TypeError, message);
    });
  }

  itRefuses([
    [
      'what is near to none',
      () => read({ momentum: 1 }, ['dtype', 'device']),
      TypeError,
      'Expected a known option for options but received "momentum"; known are dtype, device',
    ],
    ['an array', () => read([1]), TypeError, 'Expected an object for options but received an array of length 1'],
    ['a Map', () => read(new Map([['lr', 1]])), TypeError, 'Expected an object for options but received a Map'],
    ['a Set', () => read(new Set([1])), TypeError, 'Expected an object for options but received a Set'],
    [
      'what a generator yields',
      () => read((function* () {})()),
      TypeError,
      'Expected an object for options but received an object',
    ],
    [
      'a typed array',
      () => read(new Float32Array(1)),
      TypeError,
      'Expected an object for options but received a Float32Array',
    ],
    [
      'options where their names belong',
      () => read({}, { lr: 1 } as never),
      TypeError,
      'Expected a list of names for known but received an object',
    ],
    ['null', () => read(null as never), TypeError, 'Expected an object for options but received null'],
  ]);
});

describe('nearest', () => {
  it('should be none where all are far', () => {
    expect(nearest('dense.bias', [])).to.equal(undefined);
    expect(nearest('dense.bias', ['conv.weight'])).to.equal(undefined);
    expect(nearest('x', ['y'])).to.equal('y');
    expect(nearest('x', ['ab'])).to.equal(undefined);
  });

  it('should be the nearest', () => {
    expect(nearest('dense1.bais', ['dense2.weight', 'dense2.bias', 'dense1.bias'])).to.equal('dense1.bias');
    expect(nearest('beta3', ['beta', 'beta1', 'beta31'])).to.equal('beta');
    expect(nearest('', ['a'])).to.equal('a');
  });
});
