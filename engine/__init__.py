"""The domain: campaigns, metrics, guard, rollback, optimiser and ledger, with no clock, file or network in sight."""
