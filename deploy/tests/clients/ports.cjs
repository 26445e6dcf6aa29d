// Leads connections to other ports: node --require ports.cjs … with PORTS_OF_TESTS="22000=31000,9081=31400".
// For programs that name fixed ports on localhost and are to be run as they are.
const net = require("node:net");

const ports = new Map(
  (process.env.PORTS_OF_TESTS ?? "")
    .split(",")
    .filter((pair) => pair !== "")
    .map((pair) => pair.split("=").map(Number)),
);
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...args) {
  // Node's own modules hand over an array whose first item holds the options.
  const options = Array.isArray(args[0]) ? args[0][0] : args[0];
  const to = options && typeof options === "object" ? ports.get(Number(options.port)) : undefined;
  if (to !== undefined) {
    options.port = to;
    options.host = "127.0.0.1";
  }
  return connect.apply(this, args);
};
