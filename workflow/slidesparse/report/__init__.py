"""From points to tables to the report: standard library, YAML and JSON schema only; no torch, no GPU.

strict      files read whole or refused by name
validate    one measured point, in its place and whole
gather      the points of one configuration -> its CSV (columns)
plan        what a run was asked for
rows        the one tidy form: a row per configuration and M, for kernels also per linear
measured, published, sources   files of either layout -> rows
tasks       how each task of a run ended and what it took
markdown, overview, checks, performance   rows -> sections of the report
write       sources -> report.md
"""
