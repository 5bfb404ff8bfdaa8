"""What stands against a fit: findings, backtests, the checklist."""
