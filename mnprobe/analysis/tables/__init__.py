"""Tables: views of the result tables, and the shape of the paper."""
