// Hook: <form data-post-keys>. Enter in the title moves to the content, and Ctrl+Enter or
// Cmd+Enter publishes the post.
export function init(form) {
  form.addEventListener("keydown", (event) => {
    const isShortcut = event.ctrlKey || event.metaKey;
    if (event.key !== "Enter" || event.isComposing) return;
    if (!isShortcut && event.target !== form.elements.title) return;
    event.preventDefault();
    if (isShortcut) form.requestSubmit();
    else form.elements.content.focus();
  });
}
