// Hook: <button data-navbar-menu aria-controls="menu">. Escape closes the menu.
export function init(button) {
  const menu = document.getElementById(button.getAttribute("aria-controls"));
  const setOpen = (isOpen) => {
    menu.classList.toggle("show", isOpen);
    button.ariaExpanded = String(isOpen);
  };
  button.addEventListener("click", () => setOpen(button.ariaExpanded === "false"));
  document.addEventListener("keydown", ({ key }) => {
    // If a modal is open, Escape closes the modal instead.
    if (key !== "Escape" || button.ariaExpanded === "false" || document.querySelector(".modal.show")) return;
    setOpen(false);
    button.focus();
  });
}
