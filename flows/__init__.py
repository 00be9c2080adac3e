"""When, and in what order. A flow's body reads as the pipeline; what happens in a step lives in `codelutra`."""
