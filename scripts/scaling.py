"""What many processes gain: the time of a training step with data parallelism, computed from rates.

    python3 scripts/scaling.py
    python3 scripts/scaling.py --parameters 1.7e9 --tokens 16384 --flops 1e12 --machine 8 --between 1.25e9

Each process computes its tokens: six operations for each parameter and token, two thirds of them in the backward pass.
Then, or meanwhile, gradients are reduced: in a ring of N processes, each sends 2 (N - 1) / N times their bytes, at the
rate of the slowest link on the way, and every bucket waits for 2 log2 N messages. What the backward pass does not hide is
added to the step: it hides at most what is sent in its time, less what sending slows it. Each operation of tch-c10d
first compares calls, which takes log2 N messages one after the other.

The default rates are those of two processes on a machine of two cores, and those of a network of 1 Gbit/s. Replace them
by measured ones: `cargo bench -p tch-c10d` prints the command for those of two processes.
"""

import argparse
import math

BUCKET_BYTES = 25 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = lambda name, default, text: parser.add_argument(name, type=float, default=default, help=f"{text} ({default:g})")
    number("--parameters", 1.3452e8, "trainable parameters")
    number("--gradient-bytes", 4, "bytes of a gradient: 4 in f32, 2 in bf16")
    number("--tokens", 4096, "tokens of a step, for each process")
    number("--flops", 7.39e10, "operations per second that a process achieves in training")
    number("--inside", 9.02e8, "bytes per second that a process sends to others of its machine")
    number("--between", 1.25e8, "bytes per second that a machine sends to others")
    number("--message", 2.3e-4, "seconds that a small message takes")
    number("--calls", 2, "operations of a step: the reducer, and a sum of counts")
    number("--overlap", 0.27, "share of a reduction beside the backward pass that does not slow it")
    parser.add_argument("--machine", type=int, default=4, help="processes of a machine (4)")
    counts = [1, 2, 4, 8, 16, 32, 64]
    parser.add_argument("--counts", type=int, nargs="+", default=counts, metavar="N", help="how many processes (1 to 64)")
    args = parser.parse_args()

    size = args.parameters * args.gradient_bytes
    compute = 6 * args.parameters * args.tokens / args.flops
    print(f"{args.parameters:g} parameters, {args.tokens:g} tokens a process and step, {compute:.3f} s of computing")
    print(f"{'processes':>9} {'reduction, s':>13} {'not hidden, s':>14} {'comparisons, s':>15} {'step, s':>8} {'efficiency':>11}")
    for count in args.counts:
        rate = args.inside if count <= args.machine else min(args.inside, args.between)
        buckets = math.ceil(size / BUCKET_BYTES)
        reduction = 2 * (count - 1) / count * size / rate + buckets * 2 * math.log2(count) * args.message
        hidden = args.overlap * min(reduction, compute * 2 / 3)
        # The last bucket is complete when backward ends.
        exposed = max(reduction - hidden, reduction / buckets)
        comparisons = args.calls * math.ceil(math.log2(count)) * args.message
        step = compute + exposed + comparisons
        print(
            f"{count:9} {reduction:13.4f} {exposed:14.4f} {comparisons:15.4f} {step:8.3f} {100 * compute / step:9.0f} %"
        )


main()
