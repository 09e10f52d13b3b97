// Copies the two viewers of the API's documentation into static/vendor, with the pictures
// that their style sheet carries as data: addresses in files of their own: the content
// security policy allows pictures from this site alone. DOMPurify, which cleans the HTML
// that they make, comes along.
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import path from "node:path";
import esbuild from "esbuild";

const DATA_URL = /url\((?:"(data:(?:[^"\\]|\\.)*)"|(data:[^)]*))\)/g;
const EXTENSIONS = { "image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg" };
const INLINE_PICTURE = /data:image\/svg\+xml;base64,[A-Za-z0-9+/=]+/g;
const LOGO_URL = "https://cdn.redoc.ly/redoc/logo-mini.svg";
const SOURCE_MAP = /\n?(?:\/\/|\/\*)# sourceMappingURL=.*$/;

const swagger = await folderOf("swagger-ui-dist", "swagger-ui");
const redoc = await folderOf("redoc", "redoc");
const purifier = await folderOf("dompurify", "dompurify");

await copyText(swagger, "swagger-ui-bundle.js");
await copyStyle(swagger, "swagger-ui.css");
await copyFile(path.join(swagger.from, "LICENSE"), path.join(swagger.to, "LICENSE"));
await copyReference(redoc, "bundles/redoc.standalone.js");
await copyFile(path.join(redoc.from, "LICENSE"), path.join(redoc.to, "LICENSE"));
await copyModule(purifier, "dist/purify.es.mjs", "purify.esm.min.js");
await copyFile(path.join(purifier.from, "LICENSE"), path.join(purifier.to, "LICENSE"));

async function folderOf(name, short) {
  const from = path.join("node_modules", name);
  const { version } = JSON.parse(await readFile(path.join(from, "package.json"), "utf8"));
  const to = path.join("static/vendor", `${short}-${version}`);
  await rm(to, { recursive: true, force: true });
  await mkdir(to, { recursive: true });
  return { from, to };
}

async function copyText({ from, to }, file) {
  const text = await readFile(path.join(from, file), "utf8");
  await writeFile(path.join(to, path.basename(file)), text.replace(SOURCE_MAP, ""));
}

async function copyStyle({ from, to }, file) {
  const pictures = new Map();
  const text = await readFile(path.join(from, file), "utf8");
  const style = text.replace(SOURCE_MAP, "").replace(DATA_URL, (_, quoted, bare) => {
    const { name, content } = decode((quoted ?? bare).replace(/\\(.)/g, "$1"));
    pictures.set(name, content);
    return `url(${name})`;
  });
  await writeFile(path.join(to, file), style);
  for (const [name, content] of pictures) await writeFile(path.join(to, name), content);
}

// ReDoc shows its maker's logo, which it loads from elsewhere; here it is this site's.
async function copyReference({ from, to }, file) {
  const pictures = new Map();
  const text = await readFile(path.join(from, file), "utf8");
  const script = text
    .replace(SOURCE_MAP, "")
    .replaceAll(LOGO_URL, "/static/icons/icon.svg")
    .replace(INLINE_PICTURE, (url) => {
      const { name, content } = decode(url);
      pictures.set(name, content);
      return `/${path.join(to, name)}`;
    });
  await writeFile(path.join(to, path.basename(file)), script);
  for (const [name, content] of pictures) await writeFile(path.join(to, name), content);
}

async function copyModule({ from, to }, file, name) {
  await esbuild.build({
    entryPoints: [path.join(from, file)],
    outfile: path.join(to, name),
    format: "esm",
    minify: true,
    target: "es2022",
    legalComments: "inline",
  });
}

// RFC 2397: data:<type>[;charset=...][;base64],<content>
function decode(url) {
  const comma = url.indexOf(",");
  const [type, ...parameters] = url.slice("data:".length, comma).split(";");
  const body = url.slice(comma + 1);
  const content = parameters.includes("base64")
    ? Buffer.from(body, "base64")
    : Buffer.from(decodeURIComponent(body));
  const hash = createHash("sha256").update(content).digest("hex").slice(0, 12);
  return { name: `${hash}.${EXTENSIONS[type]}`, content };
}
