"""From points to tables to reports. Needs no GPU; matplotlib is imported only when something must be drawn.

tables/     points -> CSVs: `gather` (with `columns`) for a configuration, `tasks` for a run; `export` writes our
            results in the published layout
sources/    files -> rows, the one tidy form: `measured` (our layout), `published`, `tidy` (tables); `read` reads all
            three, `rows` defines the form
sections/   rows -> parts of a report: `ratios` computes speed-ups, the other modules make sections
document/   `model`: a report without language or format; `languages`, `drawing`, `render`, `publish`: its files
write       sources -> the reports of hardware keys and their comparison
"""
