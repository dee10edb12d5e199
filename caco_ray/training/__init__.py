"""Supervised fine-tuning with DeepSpeed ZeRO: the same loop for the generator and the students, on CPU and GPU.

    loop.py         train_loop: one worker, start to end; under Ray Train, under torchrun, or alone   <- start here
    stepping.py     one optimizer step, and one evaluation of the held-out loss
    plan.py         which examples make which step, and which rank computes them in which forward pass (mixtures, packing)
    batches.py      the tensors of a forward pass, padded or packed; attention.py keeps packed sequences apart
    loss.py         cross-entropy at the learned positions only; guard.py stops where it is no number or jumps
    engine.py       model, optimizer and DeepSpeed engine; lora.py adapters; flops.py FLOPs and MFU
    checkpoint.py   save and resume, also on another number of ranks
    export.py       the folder that transformers and vLLM load; chat.py its chat template; generation.py its generation settings
    first.py        what rank 0 does while the others wait
    progress.py     progress.jsonl and TensorBoard: the curves, read while they are written

    sources.py      data sets to train on; examples.py their rows as sequences; data.py sequences -> tokens.arrow
    prepare.py      checks before the first step
    work.py         its work folder, and the result after the last; placement.py settings that may change in between
    trainer.py      train_model: on Ray Train; ray_checkpoints.py its checkpoints
    remote.py       train_remote: the same into an object store, for nodes that share no disk
    torchrun.py     train_here: on the ranks of torchrun
    job.py          jobs/train.py; job_config.py its configuration
"""
