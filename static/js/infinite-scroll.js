// Hook: <p data-infinite-scroll> around the button of load-more.js, which stays for those
// who do not scroll.
import { loadMore } from "./load-more.js";

const AHEAD = "400px";

export function init(root = document) {
  const end = root.querySelector("[data-infinite-scroll]");
  if (!end) return;
  const feed = end.closest("[data-feed]");
  const observer = new IntersectionObserver(
    async ([entry]) => {
      if (!entry.isIntersecting) return;
      observer.unobserve(end);
      // After a failure only the button tries again, so nothing is asked in a loop.
      if (await loadMore(feed, Number(feed.dataset.limit))) observer.observe(end);
    },
    { rootMargin: AHEAD },
  );
  observer.observe(end);
}
