"""From points to tables to the report: YAML, JSON schema, Jinja, matplotlib when something must be drawn; no GPU.

strict      files read whole or refused by name
validate    one measured point, in its place and whole
gather      the points of one configuration -> its CSV (columns)
plan        what a run was asked for
rows        the one tidy form: a row per configuration and M, for kernels also per linear
measured, published, sources   files of either layout -> rows
tasks       how each task of a run ended and what it took
tidy        published figures that are at hand only as tidy tables -> rows
ratios      speed-ups over named denominators, with their noise
document    what a report is made of, before it has a language or a form
overview, checks, performance, speedups, lifts, anomalies, conclusions, figures, comparison   rows -> its parts
languages   sentences in other languages
drawing     panels of figures -> SVG and PNG
render, publish   document -> Markdown, HTML, CSV; onto disk, where it differs
write       sources -> reports and their comparison
export      our results -> the published layout
"""
