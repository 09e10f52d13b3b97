// Copies Swagger UI, ReDoc, and DOMPurify, which sanitizes their HTML, to static/vendor.
// Images in data: URLs become files, because the content security policy forbids data: URLs.
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import path from "node:path";
import esbuild from "esbuild";

const DATA_URL = /url\((?:"(data:(?:[^"\\]|\\.)*)"|(data:[^)]*))\)/g;
const EXTENSIONS = { "image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg" };
const DATA_SVG = /data:image\/svg\+xml;base64,[A-Za-z0-9+/=]+/g;
const LOGO_URL = "https://cdn.redoc.ly/redoc/logo-mini.svg";
const SOURCE_MAP = /\n?(?:\/\/|\/\*)# sourceMappingURL=.*$/;

const swagger = await createFolder("swagger-ui-dist", "swagger-ui");
const redoc = await createFolder("redoc", "redoc");
const dompurify = await createFolder("dompurify", "dompurify");

await copyText(swagger, "swagger-ui-bundle.js");
await copyStyle(swagger, "swagger-ui.css");
await copyFile(path.join(swagger.from, "LICENSE"), path.join(swagger.to, "LICENSE"));
await copyRedoc(redoc, "bundles/redoc.standalone.js");
await copyFile(path.join(redoc.from, "LICENSE"), path.join(redoc.to, "LICENSE"));
await copyModule(dompurify, "dist/purify.es.mjs", "purify.esm.min.js");
await copyFile(path.join(dompurify.from, "LICENSE"), path.join(dompurify.to, "LICENSE"));

async function createFolder(name, short) {
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
  const images = new Map();
  const text = await readFile(path.join(from, file), "utf8");
  const style = text.replace(SOURCE_MAP, "").replace(DATA_URL, (_, quoted, bare) => {
    const { name, content } = decode((quoted ?? bare).replace(/\\(.)/g, "$1"));
    images.set(name, content);
    return `url(${name})`;
  });
  await writeFile(path.join(to, file), style);
  for (const [name, content] of images) await writeFile(path.join(to, name), content);
}

// ReDoc would load its logo from a CDN. Show this site's icon instead.
async function copyRedoc({ from, to }, file) {
  const images = new Map();
  const text = await readFile(path.join(from, file), "utf8");
  const script = text
    .replace(SOURCE_MAP, "")
    .replaceAll(LOGO_URL, "/static/icons/icon.svg")
    .replace(DATA_SVG, (url) => {
      const { name, content } = decode(url);
      images.set(name, content);
      return `/${path.join(to, name)}`;
    });
  await writeFile(path.join(to, path.basename(file)), script);
  for (const [name, content] of images) await writeFile(path.join(to, name), content);
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
