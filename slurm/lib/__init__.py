"""The parts of the batch scripts: shell that `job.sh` reads, and what it starts on nodes."""
