"""Names that the libraries' own classes take and that Setup does not model: passed on, never called unknown.

Collected from the dataclass fields of transformers 4.51–5.23 (training_args.py, utils/quantization_config.py), trl
0.17–1.16 (sft_config.py, base_config.py, those of its other methods) and peft 0.21 (tuners/lora/config.py).
"""

from __future__ import annotations

_TRAINING = """
    accelerator_config adafactor adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size average_tokens_across_devices
    batch_eval_metrics bf16_full_eval dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
    ddp_bucket_cap_mb ddp_static_graph ddp_timeout debug disable_tqdm do_eval do_predict do_train enable_jit_checkpoint
    eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_use_gather_object
    fp16_backend fp16_full_eval fp16_opt_level fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap greater_is_better
    half_precision_backend hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token
    ignore_data_skip include_for_metrics include_inputs_for_metrics include_num_input_tokens_seen
    include_tokens_per_second jit_mode_eval label_smoothing_factor length_column_name liger_kernel_config
    local_rank log_level log_level_replica log_on_each_node logging_dir logging_first_step
    logging_nan_inf_filter lr_scheduler_kwargs metric_for_best_model mp_parameters no_cuda optim_args
    overwrite_output_dir parallelism_config past_index per_gpu_eval_batch_size per_gpu_train_batch_size
    prediction_loss_only project push_to_hub push_to_hub_model_id push_to_hub_organization push_to_hub_token ray_scope
    remove_unused_columns restore_callback_states_from_checkpoint run_name save_on_each_node save_only_model
    save_safetensors save_total_limit skip_memory_metrics tf32 torch_compile_backend torch_compile_mode
    torch_empty_cache_steps torchdynamo tp_size tpu_metrics_debug tpu_num_cores trackio_bucket_id trackio_space_id
    trackio_static_space_id train_sampling_strategy use_cpu use_ipex use_legacy_prediction_loop use_mps_device
    activation_offloading chars_per_token chat_template_path dataset_batch_size dataset_kwargs dataset_num_proc
    eos_token eval_packing model_init_kwargs num_of_sequences packing_strategy pad_to_multiple_of pad_token
    router_aux_loss_coef shuffle_dataset truncation_mode
"""
_METHODS = """
    cache_implementation cast_lm_head_to_fp32 center_rewards_coefficient chat_template_kwargs cpo_alpha delta
    desirable_weight disable_dropout discopop_tau ds3_gather_for_generation entropy_coef entropy_coef_delta
    entropy_coef_max entropy_coef_min entropy_target epsilon epsilon_high f_alpha_divergence_coef f_divergence_type
    generate_during_eval generation_config generation_kwargs generation_max_length generation_num_beams
    importance_sampling_level is_encoder_decoder ld_alpha log_completions log_completions_hub_repo log_multimodal
    log_unique_prompts loss_weights mask_truncated_completions max_completion_length max_prompt_length
    max_tool_calling_iterations min_p multi_objective_aggregation normalize_advantages num_completions_to_print
    num_iterations off_policy_mask_threshold padding_value precompute_ref_batch_size precompute_ref_log_probs
    predict_with_generate ref_model_mixup_alpha ref_model_sync_steps repetition_penalty reward_clip_range
    reward_weights rpo_alpha sapo_temperature_neg sapo_temperature_pos scale_rewards simpo_gamma sortish_sampler
    sync_ref_model temperature top_entropy_quantile top_k top_p transformers_continuous_batching_config
    undesirable_weight use_adaptive_entropy use_bias_correction_kl use_transformers_continuous_batching
    use_transformers_paged use_weighting vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos
    vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_group_port vllm_importance_sampling_cap
    vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_importance_sampling_correction
    vllm_importance_sampling_mode vllm_max_model_length vllm_mode vllm_model_impl vllm_server_base_url
    vllm_server_host vllm_server_port vllm_server_timeout vllm_structured_outputs_regex vllm_tensor_parallel_size
"""
_LORA = """
    megatron_config megatron_core loftq_config eva_config corda_config lora_ga_config velora_config
    alora_invocation_tokens use_qalora qalora_group_size monteclora_config layer_replication runtime_config lora_bias
    use_bdlora arrow_config kasa_config ensure_weight_tying base_model_name_or_path revision peft_type inference_mode
    auto_mapping peft_version
"""
_MODEL = """
    cache_dir force_download local_files_only low_cpu_mem_usage max_memory offload_buffers offload_folder
    offload_state_dict output_loading_info rope_scaling subfolder token tp_plan use_safetensors variant
    ignore_mismatched_sizes code_revision load_in_4bit load_in_8bit
"""
TRAINING = frozenset(_TRAINING.split()) | frozenset(_METHODS.split())
LORA = frozenset(_LORA.split())
MODEL = frozenset(_MODEL.split())
QUANTIZATION = frozenset({"llm_int8_threshold", "llm_int8_has_fp16_weight", "quant_method"})
RENAMED: dict[str, tuple[str, str]] = {
    "training.evaluation_strategy": ("training.eval_strategy", "Renamed in transformers 4.41, removed in 4.51."),
    "training.use_liger": ("training.use_liger_kernel", "Renamed in trl 0.17, removed since."),
    "model.use_flash_attention_2": ("model.attn_implementation", "from_pretrained no longer takes it."),
}
"""Old name → (new name, since when), both as canonical paths."""
TASK_OF_PEFT = {
    "SEQ_2_SEQ_LM": "seq2seq-lm",
    "SEQ_CLS": "sequence-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
}
"""``lora.task_type`` → ``model.task``; PEFT's CAUSAL_LM is written for models with images and encoders as well."""
PEFT_SINCE: dict[str, tuple[int, int]] = {
    "rank_pattern": (0, 6),
    "alpha_pattern": (0, 6),
    "loftq_config": (0, 7),
    "megatron_config": (0, 7),
    "megatron_core": (0, 7),
    "use_rslora": (0, 8),
    "use_dora": (0, 9),
    "layer_replication": (0, 10),
    "eva_config": (0, 14),
    "exclude_modules": (0, 14),
    "lora_bias": (0, 14),
    "corda_config": (0, 15),
    "trainable_token_indices": (0, 15),
    "use_qalora": (0, 16),
    "qalora_group_size": (0, 16),
    "target_parameters": (0, 17),
    "alora_invocation_tokens": (0, 18),
    "arrow_config": (0, 18),
    "ensure_weight_tying": (0, 18),
    "peft_version": (0, 18),
    "lora_ga_config": (0, 19),
    "use_bdlora": (0, 19),
    "monteclora_config": (0, 20),
    "velora_config": (0, 20),
    "kasa_config": (0, 21),
}
"""Keys of LoraConfig that came after peft 0.5, and since when: compared between the packages of 0.5 to 0.21."""
_PEFT_FIRST = """
    auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights layers_pattern
    layers_to_transform lora_alpha lora_dropout modules_to_save peft_type r revision target_modules task_type
    runtime_config
"""
PEFT_FIRST = frozenset(_PEFT_FIRST.split())
"""Keys that every one of them has, or drops by itself."""
