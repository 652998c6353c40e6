/** What the addon exports as `dlpack` (native/node/dlpack.cc). */

/** What a tensor of another library says of itself; with a `major` other than 0 and 1 nothing else is known. */
export interface DlpackDescription {
  readonly isInUse: boolean;
  /** Of the version; 0 for a DLManagedTensor. */
  readonly major: number;
  readonly isReadOnly: boolean;
  readonly deviceType: number;
  readonly deviceId: number;
  readonly code: number;
  readonly bits: number;
  readonly lanes: number;
  readonly shape: readonly number[];
  /** In elements. */
  readonly strides: readonly number[] | null;
  readonly address: bigint;
}

/** A tensor of another library in use. */
export interface DlpackHold {
  /** @param pointer a bigint or an External */
  take(pointer: unknown, isVersioned: boolean): void;
  /** Over its elements, in memory of the host. */
  buffer(bytes: number): ArrayBuffer;
  /** Detaches the buffer; the deleter is called once nothing uses the memory. */
  release(): void;
  /** The same, but the deleter is not called: the tensor belongs to who had it before take(). */
  giveBack(): void;
}

export interface DlpackAddon {
  /** @param pointer a bigint or an External */
  describe(pointer: unknown, isVersioned: boolean): DlpackDescription;
  readonly Hold: new () => DlpackHold;
  readonly Capsule: new (
    memory: object,
    code: number,
    bits: number,
    shape: readonly number[],
    isVersioned: boolean,
  ) => { name: string; readonly pointer: bigint };
}
