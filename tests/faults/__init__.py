"""What happens when processes die, disks fill and databases vanish."""
