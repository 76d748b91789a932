"""What transformers calls its optimizers and schedules: OptimizerNames and SchedulerType, of all versions up to 5.23.

From training_args.py and trainer_utils.py; names that were taken away are kept, for whoever runs an older version.
"""

OPTIMIZERS = frozenset((
    "adafactor", "adagrad", "adalomo", "adamw_8bit", "adamw_anyprecision", "adamw_apex_fused", "adamw_bnb_8bit",
    "adamw_hf", "adamw_torch", "adamw_torch_4bit", "adamw_torch_8bit", "adamw_torch_fused", "adamw_torch_npu_fused",
    "adamw_torch_xla", "ademamix", "ademamix_8bit", "apollo_adamw", "apollo_adamw_layerwise", "galore_adafactor",
    "galore_adafactor_layerwise", "galore_adamw", "galore_adamw_8bit", "galore_adamw_8bit_layerwise",
    "galore_adamw_layerwise", "grokadamw", "lion_32bit", "lion_8bit", "lomo", "paged_adamw_32bit", "paged_adamw_8bit",
    "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb",
    "rmsprop_bnb_32bit", "rmsprop_bnb_8bit", "schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd", "sgd",
    "stable_adamw",
))  # fmt: skip
SCHEDULERS = frozenset((
    "constant", "constant_with_warmup", "cosine", "cosine_warmup_with_min_lr", "cosine_with_min_lr",
    "cosine_with_restarts", "greedy", "inverse_sqrt", "linear", "piecewise_constant", "polynomial",
    "reduce_lr_on_plateau", "warmup_stable_decay",
))  # fmt: skip
STRATEGIES = frozenset(("no", "steps", "epoch"))
"""IntervalStrategy; SaveStrategy has ``best`` besides."""
REMOVED_NAMES = frozenset(("adamw_apex_fused", "adamw_hf", "piecewise_constant"))
"""Of these, what 5.23 has no more."""
AXOLOTL_OPTIMIZERS = frozenset((
    "adopt_adamw", "ao_adamw_4bit", "ao_adamw_8bit", "ao_adamw_fp8", "came_pytorch", "dion", "flash_adam",
    "flash_adamw", "flash_lion", "flash_sgd", "flash_sgdw", "lion_pytorch", "muon", "optimi_adamw",
    "q_galore_adamw8bit",
))  # fmt: skip
"""Optimizers that axolotl has besides (utils/schemas/enums.py, and what older versions had)."""
