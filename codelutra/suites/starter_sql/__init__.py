"""The embedded suite's generator: worlds (data) → databases → drafts of questions → problems that tell right from wrong."""
