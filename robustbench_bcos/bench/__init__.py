"""From a configuration to records: cells, the runner, the judge, the store."""
