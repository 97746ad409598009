"""What a run leaves behind: its folder, metrics, episodes, progress, checkpoints and videos."""
