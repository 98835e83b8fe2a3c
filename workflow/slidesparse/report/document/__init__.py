"""The model of a report, and its files in any language: Markdown, HTML, CSVs and figures."""
