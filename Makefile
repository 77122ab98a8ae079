# The commands of the README and of CI. Each does the set-up it needs; after one of them, plain cargo works as well.

.PHONY: help demo test bench lint doc libtorch

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile

demo: libtorch ## train on the embedded data, under two minutes after the build
	cargo run --release --example train

test: libtorch ## run all tests
	cargo test

bench: libtorch ## time alignment and loss
	cargo bench

lint: libtorch ## check the formatting, and clippy for each set of features
	cargo fmt --check
	cargo clippy --all-targets --no-default-features -- -D warnings
	cargo clippy --all-targets --no-default-features --features data -- -D warnings
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --all-features -- -D warnings

doc: ## build the documentation, without libtorch
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --no-default-features --features data,rayon,torch,doc-only

libtorch: ## install libtorch unless it is there
	@sh scripts/libtorch.sh
