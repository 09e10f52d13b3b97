// Hook: <p data-infinite-scroll> at the end of a post list. The "Load more" button stays for
// keyboard users and for retries.
import { loadOlder } from "./post-list.js";

const DISTANCE = "400px";

export function init(pager) {
  const list = pager.closest("[data-post-list]");
  const observer = new IntersectionObserver(
    async (entries) => {
      // On a slow device, one call gets several entries. Only the last one is current.
      if (!entries.at(-1).isIntersecting) return;
      observer.unobserve(pager);
      // After an error, only the button retries, so that requests don't fail in a loop.
      if (await loadOlder(list)) observer.observe(pager);
    },
    { rootMargin: DISTANCE },
  );
  observer.observe(pager);
}
