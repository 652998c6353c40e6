/** Arrays on a GPU for tests. */
import { type DType, Tensor } from '../../lib/index.js';
import { DTYPE_BYTES, type Place, tensorOf } from './memory.js';

/** Memory of a GPU as Tensors own it. */
export const deviceMemory: Place = (dtype, length) => Tensor.zeros(length, { dtype, device: 'cuda' });

/** Memory of a GPU as another library may have it: no address is a multiple of more than the element's size. */
export class OddDeviceMemory {
  #count = 0;

  readonly place: Place = (dtype, length) =>
    onDeviceAt(dtype, length, DTYPE_BYTES[dtype] * (1 + 2 * (this.#count++ % 7)));
}

/** Zeros on a GPU at so many bytes, modulo 64, after a multiple of 64. */
export function onDeviceAt(dtype: DType, length: number, residue: number): Tensor {
  const bytes = DTYPE_BYTES[dtype];
  const owner = Tensor.zeros(length + 64 / bytes, { dtype, device: 'cuda' });
  return Tensor.fromDevicePointer(owner.pointer + BigInt(residue % 64), { shape: length, dtype, owner });
}

/** A copy of a tensor on a GPU, at its own address modulo 64. */
export function copyToDevice(tensor: Tensor): Tensor {
  const { byteOffset } = tensor.data;
  return onDeviceAt(tensor.dtype, tensor.length, byteOffset % 64).copyFrom(tensor);
}

/** The bits of an array on any device, as a Tensor of the host. */
export function toHost(tensor: Tensor): Tensor {
  return tensorOf(tensor).to('cpu');
}
