// Hook: <p data-infinite-scroll> at the end of a post list. The button of load-more.js stays
// for keyboard users and for trying again.
import { loadOlder } from "./post-list.js";

const DISTANCE = "400px";

export function init(pager) {
  const list = pager.closest("[data-post-list]");
  const observer = new IntersectionObserver(
    async ([entry]) => {
      if (!entry.isIntersecting) return;
      observer.unobserve(pager);
      // After an error, only the button tries again, so that requests don't fail in a loop.
      if (await loadOlder(list)) observer.observe(pager);
    },
    { rootMargin: DISTANCE },
  );
  observer.observe(pager);
}
