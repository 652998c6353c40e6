/** The factor of the loss that keeps gradients of half precision from underflowing. */
import { checkBoolean, checkInteger, checkNumber, outOfRange, wrongKindIn } from '../errors.js';
import { readOptions, refuseAssignment } from '../options.js';

/** Options of LossScaler, with the defaults of torch.amp.GradScaler. */
export interface LossScalerOptions {
  /** The scale of the first step. Default 65536. */
  readonly initialScale?: number;
  /** What the scale is multiplied by after `growthInterval` finite steps in a row; at least 1. Default 2. */
  readonly growthFactor?: number;
  /** What the scale is multiplied by after gradients that are not finite; in (0, 1]. Default 0.5. */
  readonly backoffFactor?: number;
  /** Default 2000. */
  readonly growthInterval?: number;
  /** Whether the scale changes; false for a constant one. Default true. */
  readonly dynamic?: boolean;
}

/** What resumes a LossScaler, as plain data for JSON. */
export interface LossScalerStateDict {
  /** Of the format. */
  readonly version: 1;
  /** What the next loss is multiplied by. */
  readonly scale: number;
  /** Finite steps in a row since the scale last changed. */
  readonly growthTracker: number;
}

const OPTIONS = [
  'initialScale',
  'growthFactor',
  'backoffFactor',
  'growthInterval',
  'dynamic',
] as const satisfies readonly (keyof LossScalerOptions)[];

const SYNONYMS = { initScale: 'initialScale', scale: 'initialScale', enabled: 'dynamic' };

/** As of Tensor: a copy of a scaler's properties would have no scale. */
const NOT_CLONEABLE = Symbol('a LossScaler, which cannot be cloned: send its stateDict()');

/**
 * Multiply the loss by `scale` before the backward pass and give the scaler to the step: it divides the gradients by
 * the scale, skips the update for all tensors if one of them is not finite, and then adjusts the scale, as
 * torch.amp.GradScaler's `unscale_()`, `step()` and `update()` together (Micikevicius et al., "Mixed Precision
 * Training", 2018). A scaler serves one optimizer.
 */
export class LossScaler {
  /** @internal */
  readonly cloning = NOT_CLONEABLE;
  /** What the scale is multiplied by after `growthInterval` finite steps in a row. */
  readonly growthFactor: number;
  /** What the scale is multiplied by after gradients that are not finite. */
  readonly backoffFactor: number;
  /** Finite steps in a row before the scale grows. */
  readonly growthInterval: number;
  /** Whether the scale changes. */
  readonly dynamic: boolean;
  #scale: number;
  #growthTracker = 0;

  /** @throws TypeError for options of the wrong kind or that are not known, RangeError for values out of range */
  constructor(options: LossScalerOptions = {}) {
    const given = readOptions(options, 'options', OPTIONS, SYNONYMS);
    this.#scale = checkScale(given.initialScale ?? 65536, 'initialScale');
    this.growthFactor = checkNumber(given.growthFactor ?? 2, 'growthFactor');
    if (this.growthFactor < 1) throw outOfRange('a number of at least 1', 'growthFactor', this.growthFactor);
    this.backoffFactor = checkNumber(given.backoffFactor ?? 0.5, 'backoffFactor');
    if (this.backoffFactor === 0 || this.backoffFactor > 1) {
      throw outOfRange('a number in (0, 1]', 'backoffFactor', this.backoffFactor);
    }
    this.growthInterval = checkInteger(given.growthInterval ?? 2000, 'growthInterval', 1);
    this.dynamic = checkBoolean(given.dynamic ?? true, 'dynamic');
  }

  /** What to multiply the next loss by. */
  get scale(): number {
    return this.#scale;
  }

  /**
   * Adjusts the scale after gradients were measured. A step that is given the scaler calls it; call it yourself only
   * after a step that is not ours. The scale stays where a change would make it 0 or infinite in float32.
   *
   * @param finite whether all gradients were finite
   */
  update(finite: boolean): void {
    checkBoolean(finite, 'finite');
    if (!this.dynamic) return;
    if (finite && ++this.#growthTracker < this.growthInterval) return;
    this.#growthTracker = 0;
    const next = this.#scale * (finite ? this.growthFactor : this.backoffFactor);
    if (isScale(next)) this.#scale = next;
  }

  /** The scale and how long it has lasted, for JSON. */
  stateDict(): LossScalerStateDict {
    return { version: 1, scale: this.#scale, growthTracker: this.#growthTracker };
  }

  /**
   * Takes what stateDict() gave.
   *
   * @throws TypeError or RangeError for anything else; then nothing has changed
   */
  loadStateDict(stateDict: LossScalerStateDict): void {
    const { version, scale, growthTracker } = readOptions(stateDict, 'stateDict', [
      'version',
      'scale',
      'growthTracker',
    ]);
    if (version !== 1) throw outOfRange('1', 'stateDict.version', version);
    const checkedScale = checkScale(scale, 'stateDict.scale');
    const checkedTracker = checkInteger(growthTracker, 'stateDict.growthTracker');
    this.#scale = checkedScale;
    this.#growthTracker = checkedTracker;
  }

  /** As stateDict(). */
  toJSON(): LossScalerStateDict {
    return this.stateDict();
  }
}

refuseAssignment(LossScaler.prototype, 'scale', () =>
  wrongKindIn('what loadStateDict() restores', 'scale', 'an assignment, which cannot change it'),
);

/** Whether a number is positive and finite in float32, in which losses are computed. */
function isScale(value: number): boolean {
  const rounded = Math.fround(value);
  return rounded > 0 && Number.isFinite(rounded);
}

function checkScale(value: unknown, name: string): number {
  const scale = checkNumber(value, name);
  if (!isScale(scale)) throw outOfRange('a positive number that float32 can hold', name, scale);
  return scale;
}
