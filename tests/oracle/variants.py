"""The models of the equality test: small, odd-sized, every branch of the family."""
from .model import Config, Train

SMALL = dict(layers=2, hidden=48, heads=4, ffn_width=80, experts=8, batch=3, patches=5, patch=40,
             length=11, vocab=101)
DENSE = ("attention", "ffn")
MOE = ("attention", "moe")
ADAMW = Train("adamw", (("decay", 0.01),), clip=1.0)

VARIANTS = {
    "dense": (Config(block=DENSE, **SMALL), ADAMW),
    "moe1": (Config(block=MOE, prototypes=1, **SMALL), ADAMW),
    "moe2": (Config(block=MOE, prototypes=2, **SMALL), ADAMW),
    "moe4": (Config(block=MOE, prototypes=4, **SMALL), ADAMW),
    "top2": (Config(block=MOE, prototypes=1, top=2, **SMALL), ADAMW),
    "top2x2": (Config(block=MOE, prototypes=2, top=2, **SMALL), ADAMW),
    "groups": (Config(block=MOE, prototypes=2, group=16, **SMALL), ADAMW),
    "tight": (Config(block=MOE, prototypes=2, **SMALL | dict(capacity=0.5)), ADAMW),
    "shared": (Config(share=True, **SMALL), ADAMW),
    "mixed": (Config(**SMALL), ADAMW),
    "adafactor": (Config(**SMALL), Train("adafactor", peak=3e-3)),
    "adafactor_relative": (Config(**SMALL), Train("adafactor", (("relative", True),), peak=3e-2)),
    "sgd": (Config(**SMALL),
            Train("sgd", (("momentum", 0.9), ("decay", 0.001)), peak=0.05, clip=0.5)),
}
