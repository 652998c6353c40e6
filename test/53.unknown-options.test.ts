/** Options that nobody knows: told, with the one that was probably meant. */
import { expect } from 'chai';
import { checkOptions, nearest } from '../lib/errors.js';
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

function check(options: object): () => object {
  return () => checkOptions(options, 'options', KNOWN, SYNONYMS);
}

describe('checkOptions', () => {
  it('should return options that are all known', () => {
    const options = { wd: 0, dtype: undefined };
    expect(checkOptions(options, 'options', KNOWN)).to.equal(options);
    checkOptions({}, 'options', KNOWN);
    checkOptions(Object.create(null), 'options', KNOWN);
  });

  it('should read no value', () => {
    const options = {
      get wd(): number {
        throw new Error('read');
      },
    };
    checkOptions(options, 'options', KNOWN);
  });

  it('should overlook what is not enumerable, and symbols', () => {
    class Options {
      wd = 0;
      method(): void {}
    }
    checkOptions(new Options(), 'options', KNOWN);
    checkOptions({ [Symbol('lr')]: 1 }, 'options', KNOWN);
    checkOptions(Object.defineProperty({}, 'lr', { value: 1 }), 'options', KNOWN);
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
      () => checkOptions({ momentum: 1 }, 'options', ['dtype', 'device']),
      TypeError,
      'Expected a known option for options but received "momentum"; known are dtype, device',
    ],
    [
      'the keys of an array',
      () => checkOptions([1], 'options', ['dtype']),
      TypeError,
      'Expected a known option for options but received "0"; known are dtype',
    ],
    ['null', () => checkOptions(null, 'options', KNOWN), TypeError, 'Expected an object for options but received null'],
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
