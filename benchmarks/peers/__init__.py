"""One module per library, each with the same four names.

NAMES                                            what the library contributes to the tables, in order
SPIN                                             seconds for which its idle threads keep a core busy after a parallel call (measured)
versions() -> dict[str, str]                     imports the library; ImportError means that it is absent
candidate(name, case, which, arrays, threads)    a measure.Candidate; raises measure.Unsupported with what is lacking

ncnn and mnn run in a worker process and are stood for by a remote.Remote, which has the SPIN of both.
"""
