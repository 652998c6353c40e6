/** The factor of the loss that keeps gradients of half precision from underflowing. */
import type { DeviceMemory } from '../backend/cuda-addon.js';
import { checkBoolean, checkInteger, checkNumber, outOfRange, wrongKindIn } from '../errors.js';
import { fixedOption, readOptions, refuseAssignment } from '../options.js';
import { type ResolvedDevice, resolveDevice } from '../tensor/device.js';
import { Tensor } from '../tensor/tensor.js';

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
  /** Where `scaleTensor` lies: 'cpu', 'cuda', 'cuda:N', or by default 'auto', the first GPU if there is one. */
  readonly device?: string;
}

/** What changes in a LossScaler. */
interface LossScale {
  scale: number;
  growthTracker: number;
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
  'device',
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
  readonly #growthFactor: number;
  readonly #backoffFactor: number;
  readonly #growthInterval: number;
  readonly #dynamic: boolean;
  readonly #device: string;
  #scaleTensor: Tensor<'float32'> | null = null;
  /** Waits for steps about which a GPU decides, and which change `current` then. */
  #settle: () => void = () => {};
  /** @internal */
  readonly current: LossScale;

  /** @throws TypeError for options of the wrong kind or that are not known, RangeError for values out of range */
  constructor(options: LossScalerOptions = {}) {
    const given = readOptions(options, 'options', OPTIONS, SYNONYMS);
    this.current = { scale: checkScale(given.initialScale ?? 65536, 'initialScale'), growthTracker: 0 };
    this.#growthFactor = checkNumber(given.growthFactor ?? 2, 'growthFactor');
    if (this.#growthFactor < 1) throw outOfRange('a number of at least 1', 'growthFactor', this.#growthFactor);
    this.#backoffFactor = checkNumber(given.backoffFactor ?? 0.5, 'backoffFactor');
    if (this.#backoffFactor === 0 || this.#backoffFactor > 1) {
      throw outOfRange('a number in (0, 1]', 'backoffFactor', this.#backoffFactor);
    }
    this.#growthInterval = checkInteger(given.growthInterval ?? 2000, 'growthInterval', 1);
    this.#dynamic = checkBoolean(given.dynamic ?? true, 'dynamic');
    // What 'auto' stands for is found out when somebody asks: it may have to make a GPU ready.
    this.#device = given.device === undefined ? 'auto' : resolveDevice(given.device, 'device');
  }

  /** What the scale is multiplied by after `growthInterval` finite steps in a row. */
  get growthFactor(): number {
    return this.#growthFactor;
  }

  /** What the scale is multiplied by after gradients that are not finite. */
  get backoffFactor(): number {
    return this.#backoffFactor;
  }

  /** Finite steps in a row before the scale grows. */
  get growthInterval(): number {
    return this.#growthInterval;
  }

  /** Whether the scale changes. */
  get dynamic(): boolean {
    return this.#dynamic;
  }

  /** What to multiply the next loss by. Waits for the steps that a GPU has not decided about yet. */
  get scale(): number {
    this.#settle();
    return this.current.scale;
  }

  /**
   * The scale as a float32 of shape [] on the scaler's `device`, always the same Tensor: work on the stream of the steps
   * finds there what to multiply its loss by, and nobody has to wait for the step before. Rounded to float32, which changes
   * no power of 2. Only to be read.
   */
  get scaleTensor(): Tensor<'float32'> {
    const known = this.#liveTensor;
    if (known) return known;
    const { scale } = this;
    const tensor = Tensor.zeros([], { device: resolveDevice(this.#device, 'device') });
    this.#write(tensor, scale);
    this.#scaleTensor = tensor;
    return tensor;
  }

  /** What `scaleTensor` has handed out, unless it was disposed of. */
  get #liveTensor(): Tensor<'float32'> | null {
    return this.#scaleTensor?.disposed ? null : this.#scaleTensor;
  }

  /**
   * Adjusts the scale after gradients were measured. A step on the CPU that is given the scaler calls it, and one on a GPU
   * does the same there; call it yourself only after a step that is not ours. The scale stays where a change would make it
   * 0 or infinite in float32.
   *
   * @param finite whether all gradients were finite
   */
  update(finite: boolean): void {
    checkBoolean(finite, 'finite');
    this.#settle();
    Object.assign(this.current, this.after(finite));
    this.writeTensor();
  }

  /**
   * What `current` is after such a step.
   *
   * @internal
   */
  after(finite: boolean): Readonly<LossScale> {
    const { scale, growthTracker } = this.current;
    if (!this.dynamic) return { scale, growthTracker };
    if (finite && growthTracker + 1 < this.growthInterval) return { scale, growthTracker: growthTracker + 1 };
    const next = scale * (finite ? this.growthFactor : this.backoffFactor);
    return { scale: isScale(next) ? next : scale, growthTracker: 0 };
  }

  /**
   * Whether a step on a GPU can change the scale there: nobody else has a say in it, and the Tensor is not elsewhere.
   *
   * @internal
   */
  canFollow(device: ResolvedDevice): boolean {
    if (Object.getPrototypeOf(this) !== LossScaler.prototype || Object.hasOwn(this, 'update')) return false;
    const tensor = this.#liveTensor;
    return tensor === null || tensor.device === device;
  }

  /**
   * Where a step on a GPU writes the scale, if anybody reads it there.
   *
   * @param settle waits for the step, which changes `current` then
   * @internal
   */
  scaleOnDevice(settle: () => void): DeviceMemory | undefined {
    this.#settle = settle;
    return this.#liveTensor?.memory as DeviceMemory | undefined;
  }

  /** @internal */
  writeTensor(): void {
    const tensor = this.#liveTensor;
    if (tensor) this.#write(tensor, this.current.scale);
  }

  /** Waits until it is there: whoever reads it may be on a stream that copies do not come before. */
  #write(tensor: Tensor<'float32'>, scale: number): void {
    tensor.set([scale]);
    if (tensor.device !== 'cpu') tensor.toArray();
  }

  /** The scale and how long it has lasted, for JSON. */
  stateDict(): LossScalerStateDict {
    return { version: 1, scale: this.scale, growthTracker: this.current.growthTracker };
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
    this.#settle();
    Object.assign(this.current, { scale: checkedScale, growthTracker: checkedTracker });
    this.writeTensor();
  }

  /** As stateDict(). */
  toJSON(): LossScalerStateDict {
    return this.stateDict();
  }
}

for (const name of ['growthFactor', 'backoffFactor', 'growthInterval', 'dynamic']) {
  refuseAssignment(LossScaler.prototype, name, () => fixedOption(name));
}
for (const name of ['scale', 'scaleTensor']) {
  refuseAssignment(LossScaler.prototype, name, () =>
    wrongKindIn('what loadStateDict() restores', name, 'an assignment, which cannot change it'),
  );
}

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
