/** Which targets can be a server's, and which of them are on this machine. */
import { isIP } from "node:net";

const EXPECTED = "expected HOST:PORT, such as 127.0.0.1:8500 or [::1]:8500, or unix:PATH";

/** Throws TypeError where `target` is no server's. */
export function checkTarget(target: string): void {
  if (/^(unix|dns|ipv4|ipv6|xds):./.test(target)) return;
  const found = /^(?<host>\[[^[\]]+\]|[^:[\]/]+):(?<port>[0-9]{1,5})$/.exec(target);
  const port = Number(found?.groups?.["port"]);
  if (found === null || port < 1 || port > 65535) throw new TypeError(`target "${target}": ${EXPECTED}`);
}

/** Whether a target is on this machine. */
export function isLocal(target: string): boolean {
  if (target.startsWith("unix:")) return true;
  const address = target.replace(/^(dns|ipv4|ipv6):(\/\/[^/]*\/)?/, "");
  const host = address.startsWith("[") ? address.slice(1, address.indexOf("]")) : address.replace(/:[0-9]+$/, "");
  const name = host.replace(/\.$/, "").toLowerCase();
  if (name === "localhost" || name.endsWith(".localhost") || name === "ip6-localhost") return true;
  const plain = name.replace(/^::ffff:/, "");
  return isIP(plain) === 4 ? plain.startsWith("127.") || plain === "0.0.0.0" : name === "::1" || name === "::";
}
