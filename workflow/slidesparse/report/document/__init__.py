"""What a report is made of -> Markdown, HTML, CSV and figures, in any language."""
