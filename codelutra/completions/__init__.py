"""What a model answered, and the program in it."""

from codelutra.completions.programs import extract_code as extract_code
