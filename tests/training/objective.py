"""The fields of the paper's objective, as `configs/grpo.py` has them."""

from configs import grpo

FIELDS = (
    "inner_updates mini_batches micro_batches advantages ratio clip_low clip_high clip_dual "
    "aggregation beta kl kl_in entropy_bonus mask_truncated dynamic_sampling correction "
    "correction_cap"
).split()
OBJECTIVE = {name: grpo.get_config().grpo[name] for name in FIELDS}
