import * as accountDelete from "./account-delete.js";
import * as accountPage from "./account-page.js";
import * as accountPassword from "./account-password.js";
import * as accountPicture from "./account-picture.js";
import * as accountProfile from "./account-profile.js";
import * as characterCounter from "./character-counter.js";
import * as deletePost from "./delete-post.js";
import * as forgotPassword from "./forgot-password.js";
import * as infiniteScroll from "./infinite-scroll.js";
import * as loadMore from "./load-more.js";
import * as login from "./login.js";
import * as logoutButton from "./logout-button.js";
import * as modalFocus from "./modal-focus.js";
import * as navbar from "./navbar.js";
import * as newPostCard from "./new-post-card.js";
import * as passwordToggle from "./password-toggle.js";
import * as postForm from "./post-form.js";
import * as postView from "./post-view.js";
import * as register from "./register.js";
import * as resetPassword from "./reset-password.js";
import * as returnLinks from "./return-links.js";
import * as theme from "./theme.js";
import * as unsavedText from "./unsaved-text.js";

const behaviours = [
  theme, navbar, returnLinks, logoutButton, modalFocus, passwordToggle, characterCounter,
  login, register, forgotPassword, resetPassword,
  loadMore, infiniteScroll, newPostCard, postView, postForm, unsavedText, deletePost,
  accountPage, accountProfile, accountPicture, accountPassword, accountDelete,
];

for (const { init } of behaviours) init();
