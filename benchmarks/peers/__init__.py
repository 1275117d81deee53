"""One module per library, each with the same names.

NAMES                                          what the library contributes to the tables, in order
versions() -> dict[str, str]                   for the report
candidate(name, case, which, arrays, threads)  a measure.Candidate; UnsupportedError says what is lacking
network(name, model, path, x, threads)         the same for a whole network: model, its name and weights for PyTorch,
                                               path, of its ONNX file for the others; x, its input

Importing a module, or Remote.versions, raises ImportError where the library is absent.

ncnn and mnn run in a worker process and are stood for by a remote.Remote.
"""
