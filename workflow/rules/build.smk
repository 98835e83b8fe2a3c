# The libraries of the GPU backends. A worker builds a missing one itself. This rule builds them ahead, without a GPU.


rule build_library:
    output:
        library="resources/build/cu{cuda}_cc{cc}/libslidesparse_{library}.so",
        record="resources/build/cu{cuda}_cc{cc}/libslidesparse_{library}.json",
    log:
        "resources/build/cu{cuda}_cc{cc}/{library}.log",
    wildcard_constraints:
        cuda=r"\d+",
        cc=r"\d+",
        library="cublaslt|cusparselt|cutlass_sparse",
    resources:
        **cluster.resources(config),
    shell:
        'python3 "$programs"/build_library.py --library {wildcards.library} --cc {wildcards.cc}'
        " --cuda {wildcards.cuda} --output {output.library} --log {log} --owner $owner 2> {log}"
