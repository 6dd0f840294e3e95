# What one does with a checkout. `make` lists it; each target brings its own prerequisites.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The extra for what is there (server/duly/chosen_extra.py says how it is chosen), or the one that was last asked for:
# make setup ACCELERATOR=webgpu. Most install the same module, so never two of them.
CHOSEN_EXTRA := PYTHONPATH=server $(PYTHON) -m duly.chosen_extra
ASKED := $(VENV)/.accelerator
ifndef ACCELERATOR
ACCELERATOR := $(or $(shell cat $(ASKED) 2>/dev/null),$(shell $(CHOSEN_EXTRA) 2>/dev/null),cpu)
else
NOTE_ASKED := @echo $(ACCELERATOR) > $(ASKED)
endif
READY := $(VENV)/.ready-$(ACCELERATOR)

PROTOS := $(wildcard protos/duly/v1/*.proto)
# Of KServe's protocol there are no modules: its names would clash with those of an installed tritonclient.
INFERENCE := protos/inference/inference.proto
KSERVE := duly/rpc/kserve
define generate_stubs
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(PROTOS)
	@mkdir -p build/inference $(1)/$(KSERVE)
	$(BIN)/python -m grpc_tools.protoc -Iprotos --pyi_out=build -o $(1)/$(KSERVE)/inference.binpb $(INFERENCE)
	@mv build/inference/inference_pb2.pyi $(1)/$(KSERVE)/messages.pyi
endef
# The pages that are made from the code, and the folder that they go into.
PAGES := protocol.md fates.md fates.svg limits.md accelerators.md
define generate_pages
	@mkdir -p build
	@$(BIN)/python -m grpc_tools.protoc -Iprotos --include_source_info -o build/protocol.binpb $(PROTOS)
	@$(BIN)/python protos/reference.py build/protocol.binpb > $(1)/protocol.md
	@$(BIN)/python docs/draw_fates.py $(1)
	@$(BIN)/python docs/list_limits.py $(1)
	@$(BIN)/python docs/list_accelerators.py $(1)
endef
RELEASED := protos/released.txtpb

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-thorough test-learn test-compiled check protos docs release-image bench profile grid compare soak chaos gpu gpu-wheels fuzz core core-clean exporters model-signing lock audit sbom wheel wheel-check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything in it; again only when pyproject.toml has changed

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "duly needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1). Try: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(CHOSEN_EXTRA) --clashing $(ACCELERATOR) > /dev/null
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "'$(PYTHON)' can't make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }
	@echo "Installing duly and what it needs into $(VENV); this takes a minute, once"
	@$(BIN)/pip install --quiet --quiet --upgrade pip
	@# What clashes takes the files of the wanted one along, so that all go where one of them is there.
	@clashing="$$($(CHOSEN_EXTRA) --clashing $(ACCELERATOR))"; \
	if $(BIN)/pip show --quiet $${clashing% *} 2>/dev/null; then $(BIN)/pip uninstall --quiet --quiet --yes $$clashing; fi
	@$(BIN)/pip install --quiet --quiet --editable '.[$(ACCELERATOR),demo,learn,load,video,dev]'
	@rm -f $(VENV)/.ready-*
	$(NOTE_ASKED)
	@touch $@

demo: $(READY) ## Watch duly work on real models (DEMO_ARGS for options)
	$(BIN)/duly demo $(DEMO_ARGS)

# One process for each processor runs a part of the list, and takes from the others' when it is done. Tests of a file are
# mostly in one process thus, and share what it sets up.
# They start hundreds of processes, of which none is to compile the sources for itself.
unexport PYTHONDONTWRITEBYTECODE
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist worksteal
test: $(READY) ## Run the tests (PYTEST_ARGS for options; "-n 0": in one process)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

test-thorough: $(READY) ## Run the tests that take long: exporters' models, the benchmark's C++ client (PYTEST_ARGS for options)
	$(BIN)/python -m pytest -m 'thorough and not learn' $(PYTEST_ARGS)

test-learn: $(READY) ## Run the tests that train or optimise models (PYTEST_ARGS="-m learn" for those that take long, too)
	$(BIN)/python -m pytest -m 'learn and not thorough' $(PYTEST_ARGS)

check: $(READY) ## Formatting, lint, types, layers, protocol and what is made from it
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint
	@$(BIN)/buf breaking --against $(RELEASED) || { \
	  echo "protos/ breaks clients of the last release ($(RELEASED)): keep numbers, names and types, and add" >&2; exit 1; }
	@rm -rf build/generated && mkdir -p build/generated
	@$(call generate_stubs,build/generated)
	@$(call generate_pages,build/generated)
	@diff -r -x __init__.py -x __pycache__ build/generated/duly/v1 server/duly/v1 || { \
	  echo "The stubs in server/duly/v1 are not those of protos/: run make protos" >&2; exit 1; }
	@for file in inference.binpb messages.pyi; do cmp build/generated/$(KSERVE)/$$file server/$(KSERVE)/$$file || { \
	  echo "server/$(KSERVE)/$$file is not that of $(INFERENCE): run make protos" >&2; exit 1; }; done
	@for page in $(PAGES); do diff build/generated/$$page docs/$$page || { \
	  echo "docs/$$page is not what protos/, server/duly/core/fates.py, server/duly/accelerators.py or the limits in server/duly say: run make docs" >&2; exit 1; }; done

protos: $(READY) docs ## Generate the stubs in server/duly/v1 and docs/protocol.md from protos/
	$(call generate_stubs,server)

docs: $(READY) ## Make the pages that come from code: docs/protocol.md from protos/, the others from server/
	$(call generate_pages,docs)

release-image: $(READY) ## Keep the protocol as it is as the last release, for make check to compare with
	$(BIN)/buf build --exclude-source-info -o $(RELEASED)

bench: $(READY) ## Measure against the transport's floor (BENCH_ARGS for options)
	$(BIN)/duly-sim bench $(BENCH_ARGS)

profile: $(READY) ## Show where each microsecond of a frame goes (PROFILE_ARGS for options)
	$(BIN)/duly-sim profile $(PROFILE_ARGS)

core: $(READY) ## Compile what every frame passes in place with mypyc (needs a C compiler); core-clean undoes it
	@$(BIN)/python compile_modules.py

core-clean: ## Back to Python
	@$(PYTHON) compile_modules.py --undo

COMPILED_TESTS := tests/core tests/runtime tests/streams tests/rpc tests/worker \
  $(patsubst %,tests/duly_sim/test_%.py,baselines bounds cli_run grid replay sim_vs_live simulator) \
  $(patsubst %,tests/e2e/test_%.py,admission chunks fusion law local local_lies no_room recording streaming variants video)
test-compiled: core ## The tests that touch what is compiled, with it compiled; then back to Python (PYTEST_ARGS for options)
	@trap '$(BIN)/python compile_modules.py --undo' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/python -m pytest --compiled $(SIDE_BY_SIDE) $(COMPILED_TESTS) $(PYTEST_ARGS) && \
	$(BIN)/python -m tests.chaos --rows local --effort quick

optimize-figures: $(READY) ## Make and judge the variants that docs/optimize.md has figures of (FIGURES_ARGS: beats digits, or options)
	$(BIN)/python docs/measure_optimize.py $(FIGURES_ARGS)

overload-figures: $(READY) ## What variants are worth under overload, on live servers (FIGURES_ARGS: ecg yolo, or options)
	$(BIN)/python docs/measure_overload.py $(FIGURES_ARGS)

guards-figures: $(READY) ## What detectors make of another time, and of other recordings (FIGURES_ARGS: yolo vad beats, or options)
	$(BIN)/python docs/measure_guards.py $(FIGURES_ARGS)

openvino-figures: $(READY) build/accelerators/openvino/.ready ## Set OpenVINO on a processor beside the CPU's provider, five minutes (FIGURES_ARGS for options)
	$(BIN)/python docs/measure_openvino.py $(FIGURES_ARGS)

realtime-figures: $(READY) ## Measure latency beside busy programs with and without --realtime, root (FIGURES_ARGS for options)
	$(BIN)/python docs/measure_realtime.py $(FIGURES_ARGS)

grid: $(READY) ## Measure what the scheduler must show, in the simulator (GRID_ARGS for options)
	$(BIN)/duly-sim grid $(GRID_ARGS)

compare: $(READY) ## Set duly beside Triton and the floor under overload, half an hour (COMPARE_ARGS for options)
	$(BIN)/duly-load compare load_tests/scenarios/overload.toml --install --out build/compare \
	  --target duly --target triton --target triton-timeouts --target floor \
	  --load 0.5 --load 1 --load 1.5 --load 2 --load 3 $(COMPARE_ARGS)

soak: $(READY) ## A night of a vehicle's sensors and of rude clients (SOAK_ARGS for options)
	$(BIN)/duly-load soak load_tests/scenarios/rig.toml --target duly --hours 8 --out build/soak $(SOAK_ARGS)

chaos: $(READY) ## Harm, attack and starve real servers: does every frame still have its outcome? (CHAOS_ARGS for options)
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

# It makes an environment of its own, online or from wheels that were laid there. A rehearsal runs in .venv.
REHEARSES := $(and $(findstring --rehearse,$(GPU_ARGS)),$(if $(findstring --offline,$(GPU_ARGS)),,yes))
gpu: $(if $(REHEARSES),$(READY)) ## Make the record of this machine's GPU, 8 minutes at most (GPU_ARGS=--rehearse without one)
	$(if $(REHEARSES),$(BIN)/python,$(PYTHON)) -m tests.gpu $(GPU_ARGS)

gpu-wheels: ## Lay wheels for make gpu on a machine without registries into build/gpu-wheels, in parts (WHEELS_ARGS for options)
	$(PYTHON) -m tests.gpu.wheels $(WHEELS_ARGS)

FUZZER := $(VENV)/.ready-fuzz
fuzz: $(FUZZER) ## Give all readers of bytes from outside bytes of any kind (FUZZ_ARGS: quick, or options)
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

$(FUZZER): $(READY)
	@$(BIN)/pip install --quiet --quiet --editable '.[fuzz]'
	@touch $@

SIGNING := $(VENV)/.ready-model-signing
model-signing: $(SIGNING) ## The tests of OpenSSF's signatures, with the library that they need
	$(BIN)/python -m pytest tests/isolation/test_openssf.py $(PYTEST_ARGS)

$(SIGNING): $(READY)
	@$(BIN)/pip install --quiet --quiet --editable '.[model-signing]'
	@touch $@

EXPORTERS := sklearn boosters tensorflow torch onnxruntime jax paddle
exporters: $(addprefix exporters-,$(EXPORTERS)) ## Export the models of tests/exporters again, 9 GB of tools (EXPORTERS=sklearn for a part)

exporters-%: build/exporters/%/.ready
	for script in tests/exporters/make/$*_*.py; do PYTHONHASHSEED=0 build/exporters/$*/bin/python -W ignore $$script || exit; done

# The lists are whole, so that nothing is chosen anew: not all of these tools agree on what they need.
build/exporters/%/.ready: tests/exporters/make/%.txt
	$(PYTHON) -m venv --clear build/exporters/$*
	build/exporters/$*/bin/pip install --quiet --no-cache-dir --no-deps --requirement $<
	@touch $@

# The other sides' software, each in an environment of its own, with a list that is whole.
PEERS := openpi zenoh egodriver logs
.PHONY: peers $(addprefix peers-,$(PEERS))
peers: $(addprefix peers-,$(PEERS)) ## Run what stands between duly and others against their own software (PEERS=openpi for a part)

$(addprefix peers-,$(PEERS)): peers-%: build/peers/%/.ready $(READY)
	$(BIN)/python -m pytest -m peers tests/peers/$* $(PYTEST_ARGS)

$(foreach peer,$(PEERS),build/peers/$(peer)/.ready): build/peers/%/.ready: tests/peers/%/requirements.txt
	$(PYTHON) -m venv --clear build/peers/$*
	build/peers/$*/bin/pip install --quiet --no-deps --requirement $<
	@touch $@

# ONNX Runtime for another kind of device is the same module, so each has an environment of its own, where its tests and
# those of the worker and the server load their models on its lane. Of WebGPU, which is slow in software, they are fewer.
KINDS := openvino webgpu plugins
ACCELERATORS := $(KINDS)
openvino_INSTALLS := '.[openvino,test]'
webgpu_INSTALLS := '.[webgpu,test]'
plugins_INSTALLS := '.[cpu,test]' onnxruntime-ep-openvino onnxruntime-ep-webgpu
openvino_TESTS := --lane openvino:CPU tests/accelerators tests/worker $(patsubst %,tests/e2e/test_%.py,streaming bad_input broken_worker)
webgpu_TESTS := --lane webgpu:0 tests/accelerators tests/e2e/test_streaming.py $(patsubst %,tests/worker/test_%.py, \
  batches batch_dimension checks first_states guards ort_session pictures process providers reshape variants version_files)
plugins_TESTS := tests/accelerators/test_plugins.py
HAS_VULKAN := $(or $(VK_DRIVER_FILES),$(VK_ICD_FILENAMES),$(wildcard /usr/lib/chromium/vk_swiftshader_icd.json))
CANNOT_webgpu := $(if $(HAS_VULKAN),,there is no driver for Vulkan (apt install chromium libvulkan1))

.PHONY: accelerators $(KINDS:%=accelerators-%)
accelerators: $(addprefix accelerators-,$(ACCELERATORS)) ## Run tests on OpenVINO, on WebGPU and on plugins (ACCELERATORS=webgpu for a part)

define accelerator
accelerators-$(1): $(if $(CANNOT_$(1)),,build/accelerators/$(1)/.ready)
	$(if $(CANNOT_$(1)),@echo "accelerators-$(1) is skipped: $(CANNOT_$(1))",build/accelerators/$(1)/bin/python -m pytest \
	  -m 'not thorough and not peers and not learn' $($(1)_TESTS) $$(PYTEST_ARGS))

build/accelerators/$(1)/.ready: pyproject.toml
	$$(PYTHON) -m venv --clear build/accelerators/$(1)
	build/accelerators/$(1)/bin/pip install --quiet --editable $($(1)_INSTALLS)
	@touch $$@
endef
$(foreach each,$(KINDS),$(eval $(call accelerator,$(each))))

.PHONY: environments
environments: $(foreach each,$(ACCELERATORS),$(if $(CANNOT_$(each)),,build/accelerators/$(each)/.ready)) $(PEERS:%=build/peers/%/.ready) ## Install what tests of accelerators and peers run in

# ---- clients in other languages: each is built and run through the table of cases in clients/conformance ----

CLIENTS := python go rust cpp node java
.PHONY: clients protos-go protos-rust $(addprefix clients-,$(CLIENTS))
clients: $(addprefix clients-,$(CLIENTS)) ## Build and test the clients of all languages that have their toolchain here (clients-go: one)

conformance = $(BIN)/python -m pytest clients/conformance --subject $(1) -q $(PYTEST_ARGS)
lacks = if ! command -v $(1) > /dev/null; then echo "$@ is skipped: there is no $(1) here ($(2))"; exit 0; fi

clients-python: $(READY)
	$(call conformance,python)

clients-go: $(READY)
	@$(call lacks,go,https://go.dev/dl); cd clients/go && go vet ./... && go test ./... && \
	go build -o ../../build/clients/go/ ./cmd/conformance ./examples/picture && cd ../.. && $(call conformance,go)

clients-rust protos-rust: export CARGO_TARGET_DIR = $(CURDIR)/build/clients/rust
clients-rust: $(READY)
	@$(call lacks,cargo,https://rustup.rs); cd clients/rust && cargo test --locked --quiet && cargo build --locked --quiet --examples && \
	cd ../.. && $(call conformance,rust)

# The examples and the conformance program are built on what was installed, as a user's project is.
CPP := build/clients/cpp
clients-cpp: $(READY)
	@$(call lacks,cmake,apt install cmake g++ pkg-config); $(call lacks,grpc_cpp_plugin,apt install libgrpc++-dev protobuf-compiler-grpc); \
	cmake -S clients/cpp -B $(CPP)/library -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=$(CURDIR)/$(CPP)/prefix > /dev/null && \
	cmake --build $(CPP)/library --parallel 2 && (cd $(CPP)/library && ctest --output-on-failure) && \
	cmake --install $(CPP)/library > /dev/null && \
	cmake -S clients/cpp/examples -B $(CPP)/examples -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=$(CURDIR)/$(CPP)/prefix > /dev/null && \
	cmake --build $(CPP)/examples --parallel 2 && $(call conformance,cpp)

NODE_READY := clients/node/node_modules/.package-lock.json
clients-node: $(READY) $(NODE_READY)
	@$(call lacks,npm,https://nodejs.org); cd clients/node && \
	npm run --silent build && npm run --silent check && PYTHON=$(abspath $(BIN))/python npm test --silent && \
	cd ../.. && echo '$(call conformance,node)' && $(call conformance,node)

$(NODE_READY): clients/node/package-lock.json
	@if command -v npm > /dev/null; then cd clients/node && npm ci --silent && touch ../../$@; fi

clients-java: $(READY)
	@$(call lacks,javac,https://adoptium.net); $(call lacks,mvn,https://maven.apache.org); cd clients/java && \
	PYTHON=$(abspath $(BIN))/python mvn --quiet --batch-mode --no-transfer-progress verify && \
	cd ../.. && echo '$(call conformance,java)' && $(call conformance,java)

protos-rust: ## Generate the Rust client's messages from protos/
	cd clients/rust && cargo run --locked --quiet -p generate

GO_PLUGINS := $(CURDIR)/build/clients/go/plugins
GO_OPTIONS := $(foreach file,$(notdir $(PROTOS)),'--go_opt=Mduly/v1/$(file)=duly/v1;dulyv1' '--go-grpc_opt=Mduly/v1/$(file)=duly/v1;dulyv1')
protos-go: $(READY) ## Generate the Go client's messages from protos/
	GOBIN=$(GO_PLUGINS) go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(GO_PLUGINS) go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
	$(BIN)/python -m grpc_tools.protoc -Iprotos --plugin=protoc-gen-go=$(GO_PLUGINS)/protoc-gen-go \
	  --plugin=protoc-gen-go-grpc=$(GO_PLUGINS)/protoc-gen-go-grpc --go_out=clients/go --go_opt=module=duly \
	  --go-grpc_out=clients/go --go-grpc_opt=module=duly $(GO_OPTIONS) $(PROTOS)

# ROS 2 from PyPI, with the message packages that it lacks made by its own generators, which needs a compiler of C++.
.PHONY: peers peers-ros2 bench-ros2
HAS_CXX := $(shell command -v $(CXX))
peers: peers-ros2
peers-ros2: $(if $(HAS_CXX),build/peers/ros2/.ready) $(READY) ## Run the ROS 2 node between publishers and subscribers of rclpy (PYTEST_ARGS for options)
	$(if $(HAS_CXX),$(BIN)/python -m pytest -m peers tests/peers/ros2 $(PYTEST_ARGS),@echo "peers-ros2 is skipped: there is no compiler of C++")

bench-ros2: build/peers/ros2/.ready $(READY) ## Measure what the ROS 2 node costs over a topic without it
	FASTDDS_DEFAULT_PROFILES_FILE=$(CURDIR)/clients/ros2/launch/fastdds_pictures.xml $(BIN)/python -m tests.peers.ros2.bench

build/peers/ros2/.ready: tests/peers/ros2/requirements.txt $(wildcard clients/ros2/duly_ros2/interfaces/*/msg/*.msg) clients/ros2/duly_ros2/make_messages.py
	$(PYTHON) -m venv --clear build/peers/ros2
	build/peers/ros2/bin/pip install --quiet --no-deps --requirement $<
	build/peers/ros2/bin/pip install --quiet --no-deps --no-build-isolation --editable . --editable clients/ros2
	build/peers/ros2/bin/duly-ros2 --make-messages
	@touch $@

# KServe's protocol, as its own clients speak it, to duly and to Triton. perf_analyzer is found by $PERF_ANALYZER or PATH.
KSERVE_CLIENTS := tritonclient kserve mlserver cudart
KSERVE_STUB := build/peers/kserve-cpp/kserve_stub
KSERVE_READY := $(KSERVE_CLIENTS:%=build/peers/%/.ready) build/peers/triton.ready
HAS_GRPCPP := $(shell command -v grpc_cpp_plugin)
.PHONY: peers peers-kserve bench-kserve
peers: peers-kserve
peers-kserve: $(KSERVE_READY) $(if $(HAS_GRPCPP),$(KSERVE_STUB)) $(READY) ## Run KServe's, MLServer's and Triton's clients against duly and Triton (PYTEST_ARGS for options)
	$(BIN)/python -m pytest -m peers tests/peers/kserve $(PYTEST_ARGS)

bench-kserve: $(KSERVE_READY) $(READY) ## Set duly beside Triton under perf_analyzer, an hour (BENCH_ARGS for options)
	$(BIN)/python -m tests.peers.kserve.bench $(BENCH_ARGS)

$(KSERVE_CLIENTS:%=build/peers/%/.ready): build/peers/%/.ready: tests/peers/kserve/requirements/%.txt
	$(PYTHON) -m venv --clear build/peers/$*
	build/peers/$*/bin/pip install --quiet --no-deps --requirement $<
	@touch $@

build/peers/triton.ready: load_tests/duly_load/targets/tritonserver.py $(READY)
	$(BIN)/duly-load peers install triton
	@mkdir -p build/peers && touch $@

$(KSERVE_STUB): tests/peers/kserve/cpp/main.cc tests/peers/kserve/cpp/CMakeLists.txt $(wildcard protos/inference/*.proto)
	cmake -S tests/peers/kserve/cpp -B build/peers/kserve-cpp -DCMAKE_BUILD_TYPE=Release > /dev/null
	cmake --build build/peers/kserve-cpp

wheel: $(READY) ## Build the wheel for this Python and machine with compiled modules (needs a C compiler), and the pure one
	@rm -rf build/wheels
	$(BIN)/pip wheel --quiet --quiet --no-deps --wheel-dir build/wheels .
	DULY_COMPILE=1 $(BIN)/pip wheel --quiet --quiet --no-deps --wheel-dir build/wheels .
	@$(BIN)/python -m venv build/wheels/venv
	build/wheels/venv/bin/pip install --quiet --quiet build/wheels/duly-*-cp*.whl
	cd build/wheels && venv/bin/duly version | grep -x 'compiled yes' && ls *.whl

wheel-check: $(READY) ## Build the wheel and try its base packages in an empty environment
	@rm -rf build/wheel
	$(BIN)/pip wheel --quiet --quiet --no-deps --wheel-dir build/wheel .
	@$(BIN)/python -m venv build/wheel/venv
	build/wheel/venv/bin/pip install --quiet --quiet build/wheel/duly-*.whl
	cd build/wheel && venv/bin/duly version | grep -x 'compiled no' && venv/bin/python -c 'import duly_client, duly_load, duly_sim'
	@! build/wheel/venv/bin/python -c 'import duly_sim.research' 2> /dev/null
	@cd build/wheel && ! venv/bin/duly serve --models . 2> serve.txt && grep -F "pip install 'duly[cpu]'" serve.txt

# What users install, for all versions of Python and with the hashes of all files. What is in it stays as it is while it
# fits pyproject.toml; LOCK_ARGS=--upgrade takes the newest.
LOCK := requirements.lock
lock: $(READY) ## Make requirements.lock from pyproject.toml (LOCK_ARGS=--upgrade for the newest of all)
	@$(BIN)/uv pip compile pyproject.toml --extra cpu --universal --python-version 3.11 --generate-hashes --quiet \
	  --custom-compile-command 'make lock' --output-file $(LOCK) $(LOCK_ARGS) > /dev/null

# Apart from what .venv has for those who change duly.
SHIPPED := build/shipped
$(SHIPPED)/.ready: $(LOCK) pyproject.toml
	@$(PYTHON) -m venv --clear --without-pip $(SHIPPED)/venv
	@$(BIN)/pip --python $(SHIPPED)/venv/bin/python install --quiet --quiet --require-hashes --requirement $(LOCK)
	@$(BIN)/pip --python $(SHIPPED)/venv/bin/python install --quiet --quiet --no-deps .
	@touch $@

# pip-audit asks the service that its own variables name (PIP_AUDIT_VULNERABILITY_SERVICE, PIP_AUDIT_OSV_URL).
audit: $(READY) ## Ask for known vulnerabilities of what users install (AUDIT_ARGS for options)
	@mkdir -p build && rm -f build/audit.json
	@$(BIN)/pip-audit --requirement $(LOCK) --require-hashes --disable-pip --progress-spinner off \
	  --format json --output build/audit.json $(AUDIT_ARGS) 2> build/audit.txt; status=$$?; \
	if [ ! -s build/audit.json ]; then \
	  echo "Nothing was audited, the service of advisories gave no answer: $$(grep -v '^ ' build/audit.txt | tail -n 1)" >&2; \
	  echo "It needs the network; PIP_AUDIT_VULNERABILITY_SERVICE and PIP_AUDIT_OSV_URL name another service" >&2; exit 2; fi; \
	tail -n 1 build/audit.txt; [ $$status -eq 0 ] || { echo "build/audit.json says which" >&2; exit 1; }

sbom: $(READY) $(SHIPPED)/.ready ## Write what users install as a bill of materials, CycloneDX in JSON
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-format JSON \
	  --output-file build/sbom.json $(SHIPPED)/venv/bin/python
	@echo "build/sbom.json"

clean: core-clean ## Remove what can be made again, .venv included
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
