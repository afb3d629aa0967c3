"""Options of the training scripts that people copy commands from, diffusers' and kohya's, that there are none of here.

Each either needs nothing here, and a line says why, or is refused with what does the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from tenshot.core.option_markers import Elsewhere

_HARMLESS = {
    "attention is PyTorch's own, which is as fast and as thrifty": (
        "enable_xformers_memory_efficient_attention enable_npu_flash_attention xformers sdpa mem_eff_attn"
    ),
    "precision of matrix products is chosen for the GPU at hand": "allow_tf32",
    "nothing is uploaded; `hf upload` does that with the result": (
        "push_to_hub hub_token hub_model_id huggingface_token huggingface_repo_id huggingface_repo_type"
        " huggingface_repo_visibility huggingface_path_in_repo async_upload save_state_to_huggingface"
    ),
    "of a hub's model the full weights are taken, whatever they are called": "variant",
    "HF_HUB_CACHE says where the hub's files are kept": "cache_dir",
    "gradients are always set to None": "set_grads_to_none",
    "the launcher's environment says it; --num_processes starts several processes": "local_rank ddp_timeout",
    "pictures are encoded once, before the first step, and no loader is waited for": (
        "dataloader_num_workers max_data_loader_n_workers persistent_data_loader_workers cache_latents"
        " cache_latents_to_disk vae_batch_size skip_cache_check lowram highvram"
    ),
    "texts are encoded once, before the first step": (
        "pre_compute_text_embeddings cache_text_encoder_outputs cache_text_encoder_outputs_to_disk"
        " text_encoder_batch_size"
    ),
    "loss and pictures are written into --output_dir: loss.jsonl, logs/, tenshot.log": (
        "logging_dir log_prefix debug_loss log_config"
    ),
    "--tracker_project_name names the project, and --output_dir the run": "log_tracker_name wandb_run_name",
    "the tracking service's own settings say it": "wandb_api_key log_tracker_config",
    "the average is kept beside the weights; it comes out the same": "foreach_ema offload_ema",
    "validation pictures are drawn with Euler a; generate takes --sampler": "validation_scheduler sample_sampler",
    "class pictures are drawn in the model's own precision": "prior_generation_precision",
    "checkpoints always hold all that a run needs to continue; --checkpointing_steps says how often": (
        "save_steps save_state save_state_on_train_end save_last_n_steps_state save_last_n_epochs_state"
    ),
    "what is written is safetensors, which every program reads": "no_safe_serialization disable_mmap_load_safetensors",
    "results hold float32; `tenshot convert RESULT FILE --dtype fp16` makes them half as large": "save_precision",
    "`tenshot convert RESULT FILE`, or --export webui:DIR, writes kohya's names": "output_kohya_format",
    "the learned words alone are written; the model stays as it is": "save_as_full_pipeline",
    "text encoders that were not trained are those of the model": "skip_save_text_encoder",
    "steps are counted, not rounds through the pictures": "repeats dataset_repeats",
    "the VAE is run in float32": "no_half_vae",
    "the text encoders learn only with --train_text_encoder": "network_train_unet_only",
    "what a model is, its files say": "v2 v_parameterization",
    "the result is named after --output_dir": "output_name",
    "the result's metadata say how it was trained": (
        "no_metadata training_comment metadata_title metadata_author metadata_description metadata_license"
        " metadata_tags metadata_trigger_phrase metadata_usage_hint"
    ),
}
_FINE = {  # name -> the values that need nothing, why, and what else to do
    "resume_from_checkpoint": ("latest", "the same command continues from the newest whole checkpoint", "remove those"
                               " checkpoint folders that are newer, and leave it out"),
    "revision": ("main", "that is the main branch", "--pretrained_model_name_or_path ORG/NAME@REVISION"),
    "non_ema_revision": ("main", "that is the main branch", "--pretrained_model_name_or_path ORG/NAME@REVISION"),
    "image_column": ("image", "pictures are found by file_name in the metadata", "name that column file_name"),
    "image_interpolation_mode": ("lanczos", "pictures are made smaller by Lanczos", ""),
    "save_model_as": ("safetensors", "what is written is safetensors", "tenshot convert RESULT FILE.ckpt"),
    "caption_extension": (".txt txt", "captions lie in .txt files", "rename the caption files to .txt"),
    "tokenizer_max_length": ("77", "texts have 77 tokens", ""),
    "max_token_length": ("75", "texts have 75 words, and the two marks", ""),
    "clip_skip": ("1", "the text encoder's last layer is read", ""),
    "network_module": ("networks.lora", "tenshot train lora is that", "LoHa and LoKr are read, not trained"),
    "lora_dropout": ("0 0.0", "nothing is dropped", ""),
    "network_dropout": ("0 0.0", "nothing is dropped", ""),
    "input_perturbation": ("0 0.0", "inputs are not perturbed", "--noise_offset is the nearest to it"),
    "timestep_bias_strategy": ("none", "all timesteps are drawn alike", ""),
    "keep_tokens_separator": ("", "", "--keep_tags N"),
}  # fmt: skip
_ELSE = {  # name -> what does the same here
    "scale_lr": "multiply --learning_rate by batch size, accumulation and processes yourself, and leave it out",
    "tokenizer_name": "the model's own is used: put the other into a copy of the model's folder",
    "dataset_name": "data sets are not downloaded: --train_data_dir FOLDER",
    "dataset_config_name": "data sets are not downloaded: --train_data_dir FOLDER",
    "dataset_config": "--train_data_dir FOLDER; its folders may be called 10_az cat",
    "max_train_samples": "put fewer pictures into the folder",
    "offset_noise": "--noise_offset 0.1",
    "prediction_type": "the model's scheduler_config.json says it: tenshot convert MODEL FOLDER, and set it there",
    "validation_prompts": "--validation_prompt with one of them",
    "sample_prompts": "--validation_prompt with one of them",
    "adam_weight_decay_text_encoder": "--adam_weight_decay counts for all that trains",
    "full_fp16": "--mixed_precision fp16",
    "full_bf16": "--mixed_precision bf16",
    "fp8_base": "--quantize_base int8",
    "fp8_base_unet": "--quantize_base int8",
    "resume": "leave it out: the same command continues from the newest whole checkpoint",
    "reg_data_dir": "--with_prior_preservation --class_data_dir FOLDER --class_prompt TEXT",
    "network_train_text_encoder_only": "tenshot train textual-inversion teaches words only",
    "sample_every_n_steps": "--validation_steps N",
    "sample_every_n_epochs": "--validation_epochs N",
    "save_every_n_epochs": "--checkpointing_steps N",
    "save_last_n_steps": "--checkpoints_total_limit N",
    "save_last_n_epochs": "--checkpoints_total_limit N",
    "use_lion_optimizer": "--optimizer lion",
    "lr_scheduler_type": "--lr_scheduler NAME",
}
_EPOCHS = Elsewhere(
    "--max_train_steps says how long", "--max_train_steps N: epochs x pictures / batch", beside="max_train_steps"
)


def _rows() -> Iterator[tuple[str, Elsewhere]]:
    for why, names in _HARMLESS.items():
        yield from ((name, Elsewhere(why)) for name in names.split())
    for name, (fine, why, do) in _FINE.items():
        yield name, Elsewhere(why, do, tuple(fine.split()))
    yield from ((name, Elsewhere(do=do)) for name, do in _ELSE.items())
    yield from ((name, _EPOCHS) for name in ("num_train_epochs", "max_train_epochs"))


ELSEWHERE = dict(_rows())
#: What kohya's scripts call options that there are here, too.
ALSO = {
    "save_every_n_steps": "checkpointing_steps",
    "optimizer_type": "optimizer",
    "log_with": "report_to",
    "lr_scheduler_num_cycles": "lr_num_cycles",
    "lr_scheduler_power": "lr_power",
    "pretrained_vae_model_name_or_path": "vae",
}
#: The same, of learning from pictures.
ALSO_PICTURES = {
    "min_snr_gamma": "snr_gamma",
    "zero_terminal_snr": "rescale_betas_zero_snr",
    "flip_aug": "random_flip",
    "enable_bucket": "aspect_ratio_buckets",
    "bucket_reso_steps": "bucket_step",
    "shuffle_caption": "shuffle_tags",
    "keep_tokens": "keep_tags",
    "caption_dropout_rate": "proportion_empty_prompts",
}
#: The same, of a LoRA.
ALSO_LORA = {"network_dim": "rank", "network_alpha": "lora_alpha", "network_weights": "start_from"}
