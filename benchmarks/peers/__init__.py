"""One module per library, each with the same three names.

NAMES                                            what the library contributes to the tables, in order
versions() -> dict[str, str]                     imports the library; ImportError means that it is absent
candidate(name, case, which, arrays, threads)    a measure.Candidate; raises measure.Unsupported with what is lacking
"""
