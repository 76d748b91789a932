"""qlora-doctor: tells what is wrong with a QLoRA setup before the run."""
