"""PyTorch's scaled_dot_product_attention in bf16, by backend: python peer_attention.py DEVICE CASE...,
a case being SEQUENCE,HEAD,CAUSAL,BATCH,HEADS. Prints a JSON object for each case and backend with the
microseconds of forward and backward in every round (by events, caches flushed in between)."""
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {name: getattr(SDPBackend, f"{name.upper()}_ATTENTION")
            for name in ("flash", "cudnn", "efficient") if hasattr(SDPBackend, f"{name.upper()}_ATTENTION")}
ROUNDS, WARMUP = 20, 5


class Clock:
    """Microseconds of a call: events on a GPU; for trying this file, a processor's clock."""

    def __init__(self, device):
        self.cuda = device == "cuda"
        if self.cuda:
            l2 = torch.cuda.get_device_properties(0).L2_cache_size
            self.junk = torch.zeros(max(3 * l2, 1 << 26) // 4, device=device)

    def time(self, fn):
        if not self.cuda:
            begin = time.perf_counter()
            fn()
            return 1e6 * (time.perf_counter() - begin)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(6):  # long enough for the host to be ahead
            self.junk.sum()
        begin.record()
        fn()
        end.record()
        torch.cuda.synchronize()
        return 1e3 * begin.elapsed_time(end)


def measure(clock, device, backend, t, d, causal, batch, heads):
    def tensor():
        x = torch.randn(batch, t, heads, d, device=device, dtype=torch.bfloat16)
        return x.transpose(1, 2).requires_grad_()

    q, k, v = tensor(), tensor(), tensor()
    grad, result, forward, backward = torch.randn_like(q), [], [], []
    with sdpa_kernel(backend):
        def attend():
            result[:] = [F.scaled_dot_product_attention(q, k, v, is_causal=bool(causal))]

        for i in range(WARMUP + ROUNDS if device == "cuda" else 2):
            forward.append(clock.time(attend))
            backward.append(clock.time(lambda: torch.autograd.grad(result, (q, k, v), grad)))
    skip = WARMUP if device == "cuda" else 1
    return {"forward": forward[skip:], "backward": backward[skip:]}


def main():
    device = sys.argv[1]
    clock = Clock(device)
    backends = BACKENDS if device == "cuda" else {"math": SDPBackend.MATH}
    for case in sys.argv[2:]:
        t, d, causal, batch, heads = map(int, case.split(","))
        for name, backend in backends.items():
            told = {"backend": name, "sequence": t, "head": d, "causal": bool(causal)}
            try:
                told.update(measure(clock, device, backend, t, d, causal, batch, heads))
            except RuntimeError as error:
                told["failed"] = str(error).splitlines()[0][:200]
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
