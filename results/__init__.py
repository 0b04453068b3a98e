"""What came out: records, statistics, plots, the report and the best-configuration export."""
