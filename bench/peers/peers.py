"""The Python contenders of the benchmark, one process for each library.

    python peers.py torch|deepspeed|mxnet

Reads requests from standard input and writes answers to standard output, both
one JSON object per line (bench/contenders/peer.ts is the other end):

    {"do": "hello"}                                          -> {"versions": {...}, "contenders": [...]}
    {"do": "setup", "lengths": [...], "dtype": ..., "device": ..., "threads": n, "contenders": [...]}
                                                             -> {"absent": {name: reason}}
    {"do": "run", "contender": ..., "steps": n}              -> {"ns": [...]}
    {"do": "hash"}                                           -> {"sha256": ...}, of all weights
    {"do": "release"}                                        -> {}

It answers once it is idle again, because OpenMP threads spin for a while after
a step, on the processors that the next contender needs.
"""
import gc
import hashlib
import json
import os
import sys
import time

import numpy as np

LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY = 0.001, (0.9, 0.999), 1e-6, 0.01
PATTERN = 65536


def values(length, tensor, which):
    """The same numbers as in bench/arrays.ts."""
    k = np.arange(min(length, PATTERN), dtype=np.uint64)
    numbers = (k * np.uint64(2654435761) + np.uint64(tensor * 40503 + which * 12345)) % np.uint64(2**32)
    pattern = (numbers / 2.0**32 - 0.5).astype(np.float32)
    return np.resize(pattern, length)


def timed(step, count):
    durations = []
    for _ in range(count):
        start = time.perf_counter_ns()
        step()
        durations.append(time.perf_counter_ns() - start)
    return durations


def wait_until_idle(interval=0.004, patience=1.0):
    """Waits until no thread of this process runs."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(interval)
        if time.process_time() - before < interval / 8:
            return


class Torch:
    """torch.optim.AdamW, fused and foreach: one optimizer, so that both use the same states."""

    contenders = ["fused", "foreach", "around"]

    def __init__(self):
        import torch

        self.torch = torch
        self.versions = {"torch": torch.__version__}

    def setup(self, lengths, dtype, device, threads, contenders):
        torch = self.torch
        torch.set_num_threads(threads)
        self.device = device
        if dtype == "float16+master":
            reason = "PyTorch keeps no masters of float16 weights"
            return {name: reason for name in contenders}
        halves = dtype == "bfloat16+master"
        kind = "float32" if halves or dtype == "float32+bfloat16 states" else dtype  # it has no smaller states
        self.weights = [self._tensor(values(n, i, 0), kind) for i, n in enumerate(lengths)]
        for i, weight in enumerate(self.weights):
            weight.grad = self._tensor(values(lengths[i], i, 1), kind)
        self.make_optimizer()
        # What a program keeps beside masters: half-precision weights and gradients, copied before and after the step.
        self.halves = [w.to(torch.bfloat16) for w in self.weights] if halves else None
        self.half_grads = [w.grad.to(torch.bfloat16) for w in self.weights] if halves else None
        return {}

    def _tensor(self, array, dtype):
        return self.torch.from_numpy(array).to(self.device, getattr(self.torch, dtype), copy=True)

    def make_optimizer(self):
        self.optimizer = self.torch.optim.AdamW(
            self.weights, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY, fused=True)

    def run(self, contender, count):
        for group in self.optimizer.param_groups:
            group["fused"], group["foreach"] = contender != "foreach", contender == "foreach"
        step = self.clip_step_and_zero if contender == "around" else self.step
        if self.device == "cpu":
            return timed(step, count)
        # On a GPU, launch the steps one after another, and count the time until all have finished.
        self.torch.cuda.synchronize()

        def all_steps():
            for _ in range(count):
                step()
            self.torch.cuda.synchronize()

        return [timed(all_steps, 1)[0] / count]

    def step(self):
        if self.halves is None:
            return self.optimizer.step()
        self.torch._foreach_copy_([weight.grad for weight in self.weights], self.half_grads)
        self.optimizer.step()
        self.torch._foreach_copy_(self.halves, self.weights)

    def clip_step_and_zero(self):
        self.torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.step()
        self.optimizer.zero_grad(set_to_none=False)

    def bytes_of_weights(self):
        return (weight.view(self.torch.uint8).cpu().numpy().tobytes() for weight in self.weights)

    def release(self):
        self.weights = self.optimizer = self.halves = self.half_grads = None
        if self.device != "cpu":
            self.torch.cuda.empty_cache()


class DeepSpeed(Torch):
    """DeepSpeed's CPUAdam, which compiles itself at first use."""

    contenders = ["CPUAdam"]

    def __init__(self):
        super().__init__()
        os.environ.setdefault("DS_IGNORE_CUDA_DETECTION", "1")
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        self.versions["deepspeed"] = deepspeed.__version__

    def setup(self, lengths, dtype, device, threads, contenders):
        if dtype == "float64":
            return {"CPUAdam": "CPUAdam has no float64"}
        return super().setup(lengths, dtype, device, threads, contenders)

    def make_optimizer(self):
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        self.optimizer = DeepSpeedCPUAdam(
            self.weights, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY, adamw_mode=True,
            fp32_optimizer_states=False)

    def run(self, contender, count):
        return timed(self.optimizer.step, count)


class MXNet:
    """mxnet.optimizer.AdamW with its fused step, with as many tensors per call as the operator handles well."""

    contenders = ["fused"]

    def __init__(self):
        import mxnet

        self.mx = mxnet
        self.versions = {"mxnet": mxnet.__version__}

    def setup(self, lengths, dtype, device, threads, contenders):
        if dtype in ("bfloat16", "float64", "float32+bfloat16 states"):
            return {"fused": f"MXNet's fused step has no {dtype}"}
        half = dtype == "float16+master"
        self.optimizer = self.mx.optimizer.create(
            "adamw", use_fused_step=True, aggregate_num=50, multi_precision=half,
            learning_rate=LEARNING_RATE, beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON, wd=WEIGHT_DECAY)
        kind = np.float16 if half else np.float32
        array = lambda i, which: self.mx.nd.array(values(lengths[i], i, which).astype(kind), dtype=kind)
        self.indices = list(range(len(lengths)))
        self.weights = [array(i, 0) for i in self.indices]
        self.grads = [array(i, 1) for i in self.indices]
        self.states = [self.optimizer.create_state_multi_precision(i, w) for i, w in enumerate(self.weights)]
        self.mx.nd.waitall()
        return {}

    def step(self):
        self.optimizer.update_multi_precision(self.indices, self.weights, self.grads, self.states)
        self.mx.nd.waitall()

    def run(self, contender, count):
        return timed(self.step, count)

    def bytes_of_weights(self):
        return (weight.asnumpy().tobytes() for weight in self.weights)

    def release(self):
        self.weights = self.grads = self.states = self.optimizer = None
        self.mx.nd.waitall()


PEERS = {"torch": Torch, "deepspeed": DeepSpeed, "mxnet": MXNet}


def answer(peer, request):
    kind = request["do"]
    if kind == "hello":
        return {"versions": peer.versions, "contenders": peer.contenders}
    if kind == "setup":
        keys = ("lengths", "dtype", "device", "threads", "contenders")
        return {"absent": peer.setup(*(request[key] for key in keys))}
    if kind == "run":
        return {"ns": peer.run(request["contender"], request["steps"])}
    if kind == "hash":
        digest = hashlib.sha256()
        for data in peer.bytes_of_weights():
            digest.update(data)
        return {"sha256": digest.hexdigest()}
    if kind == "release":
        peer.release()
        gc.collect()
        return {}
    raise ValueError(f"Expected a request but received {kind}")


def main():
    # Libraries may print: what they write to standard output goes to standard error instead.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = None
    for line in sys.stdin:
        try:
            peer = peer or PEERS[sys.argv[1]]()
            result = answer(peer, json.loads(line))
            wait_until_idle()
        except Exception as error:  # the benchmark lists the contender as absent, with this reason
            result = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
