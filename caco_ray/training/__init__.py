"""Supervised fine-tuning with DeepSpeed ZeRO: the same loop for the generator and the students, on CPU and GPU.

    trainer.py      train_model: checks, tokenises, runs the loop on Ray Train   <- start here; the only module that imports ray.train
    loop.py         train_loop: one worker, start to end; also runs alone or under torchrun
    data.py         rows -> tokens.arrow, with the count of what was left out
    batches.py      which examples make which step, and their padded tensors
    loss.py         cross-entropy at the learned positions only
    attention.py    which attention kernel a batch runs on CPU
    engine.py       model, optimizer and DeepSpeed engine
    checkpoint.py   save and resume; export.py the folder that vLLM and transformers load
    progress.py     progress.jsonl: the loss curve, read while it is written
"""
