// Compiles contracts/Token.sol with npm solc and @openzeppelin/contracts: node compile.mjs NODE_MODULES OUT.json
// No network: imports are read from NODE_MODULES.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const [modules, out] = process.argv.slice(2);
if (!modules || !out) {
  console.error("usage: node compile.mjs NODE_MODULES OUT.json");
  process.exit(2);
}
const solc = createRequire(join(resolve(modules), "here.js"))("solc");
const here = dirname(fileURLToPath(import.meta.url));

const input = {
  language: "Solidity",
  sources: { "Token.sol": { content: readFileSync(join(here, "contracts", "Token.sol"), "utf8") } },
  settings: {
    // The newest fork that genesis switches on by default.
    evmVersion: "prague",
    optimizer: { enabled: true, runs: 200 },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};
const read = (path) => {
  try {
    return { contents: readFileSync(join(modules, path), "utf8") };
  } catch (e) {
    return { error: e.message };
  }
};
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: read }));
const faults = (output.errors ?? []).filter((e) => e.severity === "error");
if (faults.length > 0) {
  for (const fault of faults) console.error(fault.formattedMessage);
  process.exit(1);
}
const token = output.contracts["Token.sol"].Token;
writeFileSync(out, JSON.stringify({ abi: token.abi, bytecode: "0x" + token.evm.bytecode.object }, null, 1));
console.log(`${out}: ${token.evm.bytecode.object.length / 2} bytes, solc ${solc.version()}`);
