"""What devices can do, as their makers state it; keys are JAX's device kinds."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Dense bfloat16 operations a second, and bytes a second that the memory gives."""

    flops: float
    bandwidth: float


LIMITS = {
    "NVIDIA A100-SXM4-40GB": Limits(312e12, 1.555e12),
    "NVIDIA A100-SXM4-80GB": Limits(312e12, 2.039e12),
    "NVIDIA H100 80GB HBM3": Limits(989e12, 3.35e12),
    "NVIDIA H200": Limits(989e12, 4.8e12),
    "TPU v4": Limits(275e12, 1.2e12),
    "TPU v5 lite": Limits(197e12, 0.819e12),
    "TPU v5": Limits(459e12, 2.765e12),
    "TPU v6 lite": Limits(918e12, 1.64e12),
}
