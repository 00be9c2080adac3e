"""Results for people: figures, the report page, the model card, the export."""
